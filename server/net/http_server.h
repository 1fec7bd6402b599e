// A small HTTP server for one page of text, such as the metrics: GET and HEAD, one request per
// connection, IPv4 and IPv6. One thread serves all connections, and none of them can hold up the
// others.
#ifndef KASCADE_SERVER_NET_HTTP_SERVER_H_
#define KASCADE_SERVER_NET_HTTP_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "server/net/address.h"
#include "server/net/socket.h"

namespace kascade::net {

struct Page {
  std::string path{};                   // "/metrics"
  std::string content_type{};           // "text/plain; charset=utf-8"
  std::function<std::string()> body{};  // called for each request, on the server's thread
};

class HttpServer {
 public:
  // UNAVAILABLE "cannot listen on HOST:PORT: reason".
  static absl::StatusOr<std::unique_ptr<HttpServer>> start(const Address& address, Page page);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  ~HttpServer();  // stops at once

  int32_t port() const { return port_; }

 private:
  HttpServer(Page page, std::vector<Socket> listeners, Socket stop_reader, Socket stop_writer);
  void run() const;

  const Page page_;
  const std::vector<Socket> listeners_;
  const Socket stop_reader_;
  Socket stop_writer_;  // closed to end the thread
  int32_t port_ = 0;
  std::thread thread_;
};

}  // namespace kascade::net

#endif  // KASCADE_SERVER_NET_HTTP_SERVER_H_
