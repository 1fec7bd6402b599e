#include "server/net/http_server.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <list>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/net/peer.h"

namespace kascade::net {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxRequestBytes = 16 << 10;
constexpr size_t kMaxConnections = 64;
constexpr size_t kMaxConnectionsPerHost = 32;
constexpr int kConnectionsAtOnce = 16;  // accepted before those that are there have their turn
constexpr auto kRequestPatience = std::chrono::seconds(3);
constexpr auto kAnswerPatience = std::chrono::seconds(10);

struct Connection {
  Socket socket;
  std::string host{};            // as Peer::host
  Clock::time_point deadline{};  // for the request to come, then for the answer to be taken
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
std::string answer(std::string_view request, const std::vector<Page>& pages) {
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
  const auto page =
      std::ranges::find_if(pages, [target](const Page& known) { return known.path == target; });
  if (page == pages.end()) return refuse("404 Not Found");
  const PageText content = page->content();
  return respond(content.available ? "200 OK" : "503 Service Unavailable", page->content_type,
                 content.text, method == "GET");
}

// Reads what has come, and prepares the answer once the request is complete.
void receive(Connection& connection, const std::vector<Page>& pages) {
  std::array<char, 4096> part{};
  const ssize_t got = recv(connection.socket.get(), part.data(), part.size(), 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    connection.done = true;
    return;
  }
  connection.request.append(part.data(), static_cast<size_t>(got));
  if (connection.request.find("\r\n\r\n") != std::string::npos) {
    connection.response = answer(connection.request, pages);
  } else if (connection.request.size() > kMaxRequestBytes) {
    connection.response = refuse("431 Request Header Fields Too Large");
  }
  if (!connection.response.empty()) connection.deadline = Clock::now() + kAnswerPatience;
}

void send_more(Connection& connection) {
  const ssize_t sent = send(connection.socket.get(), connection.response.data(),
                            connection.response.size(), MSG_NOSIGNAL);
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (sent > 0) connection.response.erase(0, static_cast<size_t>(sent));
  connection.done = sent < 0 || connection.response.empty();
}

// Closes the oldest connection, of `host` if it has as many as one may have, while there is no room
// for another one. Connections stand in the order of their arrival.
void make_room(const std::string& host, std::list<Connection>& connections) {
  const auto of_host = [&host](const Connection& connection) { return connection.host == host; };
  if (std::ranges::count_if(connections, of_host) >= int64_t{kMaxConnectionsPerHost}) {
    connections.erase(std::ranges::find_if(connections, of_host));
  } else if (connections.size() >= kMaxConnections) {
    connections.pop_front();
  }
}

// False if the process has no descriptor left.
bool accept_some(const Socket& listener, std::list<Connection>& connections) {
  for (int i = 0; i < kConnectionsAtOnce; ++i) {
    sockaddr_storage address{};
    socklen_t bytes = sizeof(address);
    Socket socket(accept4(listener.get(), reinterpret_cast<sockaddr*>(&address), &bytes,
                          SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket.get() < 0) return errno != EMFILE && errno != ENFILE;
    const std::string host = peer_of(address).host;
    make_room(host, connections);
    connections.push_back(
        {.socket = std::move(socket), .host = host, .deadline = Clock::now() + kRequestPatience});
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::start(const Address& address,
                                                              std::vector<Page> pages) {
  auto listener = Listener::open(address, Wildcard::kOneFamily);
  if (!listener.ok()) return listener.status();
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot make a pipe: ", std::strerror(errno)));
  }
  std::unique_ptr<HttpServer> server(
      new HttpServer(std::move(pages), *std::move(listener), Socket(ends[0]), Socket(ends[1])));
  server->thread_ = std::thread([raw = server.get()] { raw->run(); });
  return server;
}

HttpServer::HttpServer(std::vector<Page> pages, Listener listener, Socket stop_reader,
                       Socket stop_writer)
    : pages_(std::move(pages)),
      listener_(std::move(listener)),
      stop_reader_(std::move(stop_reader)),
      stop_writer_(std::move(stop_writer)) {}

HttpServer::~HttpServer() {
  stop_writer_ = Socket();
  thread_.join();
}

void HttpServer::run() const {
  std::list<Connection> connections;
  bool may_accept = true;
  while (true) {
    std::vector<pollfd> watched = {{.fd = stop_reader_.get(), .events = 0, .revents = 0}};
    const short accepting = may_accept ? POLLIN : short{0};
    for (const Socket& socket : listener_.sockets()) {
      watched.push_back({.fd = socket.get(), .events = accepting, .revents = 0});
    }
    for (const Connection& connection : connections) {
      const short wanted = connection.response.empty() ? POLLIN : POLLOUT;
      watched.push_back({.fd = connection.socket.get(), .events = wanted, .revents = 0});
    }
    // [ms], for the deadlines, or for others to close a file.
    const int tick = !may_accept ? 100 : connections.empty() ? -1 : 1000;
    if (poll(watched.data(), watched.size(), tick) < 0 && errno != EINTR) return;
    if (watched[0].revents != 0) return;
    auto* events = watched.data() + 1 + listener_.sockets().size();
    for (Connection& connection : connections) {
      if ((events++)->revents == 0) continue;
      connection.response.empty() ? receive(connection, pages_) : send_more(connection);
    }
    const auto now = Clock::now();
    std::erase_if(connections, [now](const Connection& connection) {
      return connection.done || connection.deadline < now;
    });
    may_accept = true;
    for (size_t i = 0; i < listener_.sockets().size(); ++i) {
      if (watched[1 + i].revents == 0) continue;
      may_accept = accept_some(listener_.sockets()[i], connections) && may_accept;
    }
  }
}

}  // namespace kascade::net
