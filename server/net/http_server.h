// A small HTTP server for a few pages of text, such as the metrics: GET and HEAD, one request per
// connection, IPv4 and IPv6. One thread serves all connections, and none of them can hold up the
// others: clients have little time, and where there are too many, the oldest goes.
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
#include "server/net/listener.h"
#include "server/net/socket.h"

namespace kascade::net {

struct PageText {
  bool available = true;  // false: the answer is 503 Service Unavailable
  std::string text{};
};

struct Page {
  std::string path{};                   // "/metrics"
  std::string content_type{};           // "text/plain; charset=utf-8"
  std::function<PageText()> content{};  // called for each request, on the server's thread
};

class HttpServer {
 public:
  // UNAVAILABLE "cannot listen on HOST:PORT: reason".
  static absl::StatusOr<std::unique_ptr<HttpServer>> start(const Address& address,
                                                           std::vector<Page> pages);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  ~HttpServer();  // stops at once

  int32_t port() const { return listener_.port(); }

 private:
  HttpServer(std::vector<Page> pages, Listener listener, Socket stop_reader, Socket stop_writer);
  void run() const;

  const std::vector<Page> pages_;
  const Listener listener_;
  const Socket stop_reader_;
  Socket stop_writer_;  // closed to end the thread
  std::thread thread_;
};

}  // namespace kascade::net

#endif  // KASCADE_SERVER_NET_HTTP_SERVER_H_
