#include "server/net/http_server.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <list>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kascade::net {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxRequestBytes = 16 << 10;
constexpr size_t kMaxConnections = 64;
// For the request to come and the answer to be taken; then the connection is closed.
constexpr auto kPatience = std::chrono::seconds(10);

struct Connection {
  Socket socket;
  Clock::time_point deadline{};
  std::string request{};
  std::string response{};  // what is left to send; filled once the request is complete
  bool done = false;
};

std::string respond(std::string_view status, const std::string& type, const std::string& body,
                    bool with_body, std::string_view more = "") {
  return absl::StrCat("HTTP/1.1 ", std::string(status), "\r\nContent-Type: ", type,
                      "\r\nContent-Length: ", body.size(), "\r\n", std::string(more),
                      "Connection: close\r\n\r\n", with_body ? body : "");
}

std::string refuse(std::string_view status, std::string_view more = "") {
  return respond(status, "text/plain; charset=utf-8", absl::StrCat(std::string(status), "\n"), true,
                 more);
}

// The answer to a request whose headers have all come.
std::string answer(std::string_view request, const Page& page) {
  const std::string_view line = request.substr(0, request.find("\r\n"));
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == line.npos || last == first || !line.substr(last + 1).starts_with("HTTP/1.")) {
    return refuse("400 Bad Request");
  }
  const std::string_view method = line.substr(0, first);
  std::string_view target = line.substr(first + 1, last - first - 1);
  target = target.substr(0, target.find('?'));
  if (method != "GET" && method != "HEAD") {
    return refuse("405 Method Not Allowed", "Allow: GET, HEAD\r\n");
  }
  if (target != page.path) return refuse("404 Not Found");
  return respond("200 OK", page.content_type, page.body(), method == "GET");
}

// Reads what has come, and prepares the answer once the request is complete.
void receive(Connection& connection, const Page& page) {
  std::array<char, 4096> part{};
  const ssize_t got = recv(connection.socket.get(), part.data(), part.size(), 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    connection.done = true;
    return;
  }
  connection.request.append(part.data(), static_cast<size_t>(got));
  if (connection.request.find("\r\n\r\n") != std::string::npos) {
    connection.response = answer(connection.request, page);
  } else if (connection.request.size() > kMaxRequestBytes) {
    connection.response = refuse("431 Request Header Fields Too Large");
  }
}

void send_more(Connection& connection) {
  const ssize_t sent = send(connection.socket.get(), connection.response.data(),
                            connection.response.size(), MSG_NOSIGNAL);
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (sent > 0) connection.response.erase(0, static_cast<size_t>(sent));
  connection.done = sent < 0 || connection.response.empty();
}

void accept_all(const Socket& listener, std::list<Connection>& connections) {
  while (connections.size() < kMaxConnections) {
    Socket socket(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket.get() < 0) return;
    connections.push_back({.socket = std::move(socket), .deadline = Clock::now() + kPatience});
  }
}

absl::Status listen_at(const SocketAddress& address, int32_t& port, std::vector<Socket>& out) {
  SocketAddress target = address;
  // All addresses of a name get the same port.
  const auto wanted = htons(static_cast<uint16_t>(port));
  if (target.family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(&target.storage)->sin6_port = wanted;
  } else {
    reinterpret_cast<sockaddr_in*>(&target.storage)->sin_port = wanted;
  }
  auto socket = bind_to(target);
  if (!socket.ok()) return socket.status();
  if (listen(socket->get(), SOMAXCONN) != 0) {
    const int code = errno;
    return code == EADDRINUSE ? absl::AlreadyExistsError(std::strerror(code))
                              : absl::UnavailableError(std::strerror(code));
  }
  port = port_of(*socket);
  out.push_back(*std::move(socket));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::start(const Address& address, Page page) {
  std::vector<Socket> listeners;
  int32_t port = address.port;
  absl::Status status = for_each_socket_address(
      address, [&](const SocketAddress& target) { return listen_at(target, port, listeners); });
  if (!status.ok()) return status;
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot make a pipe: ", std::strerror(errno)));
  }
  std::unique_ptr<HttpServer> server(
      new HttpServer(std::move(page), std::move(listeners), Socket(ends[0]), Socket(ends[1])));
  server->port_ = port;
  server->thread_ = std::thread([raw = server.get()] { raw->run(); });
  return server;
}

HttpServer::HttpServer(Page page, std::vector<Socket> listeners, Socket stop_reader,
                       Socket stop_writer)
    : page_(std::move(page)),
      listeners_(std::move(listeners)),
      stop_reader_(std::move(stop_reader)),
      stop_writer_(std::move(stop_writer)) {}

HttpServer::~HttpServer() {
  stop_writer_ = Socket();
  thread_.join();
}

void HttpServer::run() const {
  std::list<Connection> connections;
  while (true) {
    // The listeners wait while there are too many connections.
    const short accepting = connections.size() < kMaxConnections ? POLLIN : short{0};
    std::vector<pollfd> watched = {{.fd = stop_reader_.get(), .events = 0, .revents = 0}};
    for (const Socket& listener : listeners_) {
      watched.push_back({.fd = listener.get(), .events = accepting, .revents = 0});
    }
    for (const Connection& connection : connections) {
      const short wanted = connection.response.empty() ? POLLIN : POLLOUT;
      watched.push_back({.fd = connection.socket.get(), .events = wanted, .revents = 0});
    }
    const int tick = connections.empty() ? -1 : 1000;  // [ms], for the deadlines
    if (poll(watched.data(), watched.size(), tick) < 0 && errno != EINTR) return;
    if (watched[0].revents != 0) return;
    auto* events = watched.data() + 1 + listeners_.size();
    for (Connection& connection : connections) {
      if ((events++)->revents == 0) continue;
      connection.response.empty() ? receive(connection, page_) : send_more(connection);
    }
    const auto now = Clock::now();
    std::erase_if(connections, [now](const Connection& connection) {
      return connection.done || connection.deadline < now;
    });
    for (size_t i = 0; i < listeners_.size(); ++i) {
      if (watched[1 + i].revents != 0) accept_all(listeners_[i], connections);
    }
  }
}

}  // namespace kascade::net
