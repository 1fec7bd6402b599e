// Tests the HTTP listener of the metrics: answers, refusals, both families of addresses, and
// clients that hold it up.
#include "server/net/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade::net {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

Socket connected(int port, bool ipv6 = false) {
  Socket socket(::socket(ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0));
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_addr = in6addr_loopback;
  six.sin6_port = htons(static_cast<uint16_t>(port));
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  four.sin_port = htons(static_cast<uint16_t>(port));
  const auto* target =
      ipv6 ? reinterpret_cast<const sockaddr*>(&six) : reinterpret_cast<const sockaddr*>(&four);
  EXPECT_EQ(connect(socket.get(), target, ipv6 ? sizeof(six) : sizeof(four)), 0);
  return socket;
}

void send_all(const Socket& socket, std::string_view text) {
  EXPECT_EQ(send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(text.size()));
}

std::string read_all(const Socket& socket) {
  std::string all(1 << 22, '\0');
  size_t done = 0;
  while (true) {
    const ssize_t got = recv(socket.get(), all.data() + done, all.size() - done, 0);
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  return all.substr(0, done);
}

std::string exchange(int port, std::string_view request, bool ipv6 = false) {
  const Socket socket = connected(port, ipv6);
  send_all(socket, request);
  return read_all(socket);
}

std::unique_ptr<HttpServer> serve(const std::string& address, std::string body = "text\n") {
  const Page metrics = {.path = "/metrics",
                        .content_type = "text/plain",
                        .content = [body = std::move(body)] { return PageText{.text = body}; }};
  const Page state = {.path = "/readyz", .content_type = "text/plain", .content = [] {
                        return PageText{.available = false, .text = "no\n"};
                      }};
  auto server = HttpServer::start(*parse_address(address, Sockets::kTcpOnly), {metrics, state});
  EXPECT_TRUE(server.ok()) << server.status();
  return *std::move(server);
}

constexpr char kGet[] = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

TEST(HttpServer, ServesItsPage) {
  const auto server = serve("127.0.0.1:0");
  EXPECT_GT(server->port(), 0);
  for (const std::string target : {"/metrics", "/metrics?name=x"}) {
    EXPECT_THAT(exchange(server->port(), "GET " + target + " HTTP/1.1\r\n\r\n"),
                AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("Content-Length: 5\r\n"),
                      HasSubstr("Content-Type: text/plain\r\n"), EndsWith("\r\n\r\ntext\n")));
  }
  EXPECT_THAT(exchange(server->port(), "HEAD /metrics HTTP/1.0\r\n\r\n"),
              AllOf(HasSubstr("Content-Length: 5\r\n"), EndsWith("\r\n\r\n")));
}

TEST(HttpServer, ServesIpv6) {
  const auto server = serve("[::1]:0");
  EXPECT_THAT(exchange(server->port(), kGet, /*ipv6=*/true), StartsWith("HTTP/1.1 200 OK"));
}

TEST(HttpServer, LargePagesArriveWhole) {
  const std::string body(3 << 20, 'm');
  const auto server = serve("127.0.0.1:0", body);
  const std::string got = exchange(server->port(), kGet);
  EXPECT_EQ(got.substr(got.find("\r\n\r\n") + 4), body);
}

TEST(HttpServer, RefusesOtherRequests) {
  const auto server = serve("127.0.0.1:0");
  const std::pair<std::string, const char*> cases[] = {
      {"GET / HTTP/1.1\r\n\r\n", "404"},
      {"GET /metricsx HTTP/1.1\r\n\r\n", "404"},
      {"POST /metrics HTTP/1.1\r\n\r\n", "405"},
      {"nonsense\r\n\r\n", "400"},
      {"GET /metrics\r\n\r\n", "400"},
      {"PRI * HTTP/2.0\r\n\r\n", "400"},
      {"GET /metrics HTTP/1.1\r\nX: " + std::string(17 << 10, 'x'), "431"}};
  for (const auto& [request, code] : cases) {
    EXPECT_THAT(exchange(server->port(), request), StartsWith(absl::StrCat("HTTP/1.1 ", code)));
  }
}

TEST(HttpServer, SilentClientsHoldUpNobody) {
  const auto server = serve("127.0.0.1:0");
  std::vector<Socket> silent;
  for (int i = 0; i < 20; ++i) silent.push_back(connected(server->port()));
  send_all(silent.front(), "GET /met");
  EXPECT_THAT(exchange(server->port(), kGet), StartsWith("HTTP/1.1 200 OK"));
  send_all(silent.front(), "rics HTTP/1.1\r\n\r\n");
  EXPECT_THAT(read_all(silent.front()), StartsWith("HTTP/1.1 200 OK"));
}

TEST(HttpServer, APageMayBeUnavailable) {
  const auto server = serve("127.0.0.1:0");
  EXPECT_THAT(exchange(server->port(), "GET /readyz HTTP/1.1\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 503 Service Unavailable\r\n"), EndsWith("no\n")));
}

TEST(HttpServer, TheOldestOfTooManyClientsGoes) {
  const auto server = serve("127.0.0.1:0");
  std::vector<Socket> silent;
  for (int i = 0; i < 200; ++i) silent.push_back(connected(server->port()));
  EXPECT_THAT(exchange(server->port(), kGet), StartsWith("HTTP/1.1 200 OK"));
  EXPECT_EQ(read_all(silent.front()), "");  // closed
}

TEST(HttpServer, NamesTheReasonWhyItCannotListen) {
  const auto first = serve("127.0.0.1:0");
  const std::string address = absl::StrCat("127.0.0.1:", first->port());
  const auto second = HttpServer::start(*parse_address(address, Sockets::kTcpOnly), {});
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              AllOf(HasSubstr(address), HasSubstr("Address already in use")));
}

}  // namespace
}  // namespace kascade::net
