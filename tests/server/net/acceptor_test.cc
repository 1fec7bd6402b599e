// Tests the accept loop: what it hands over, what it refuses, and that it goes on after a lack of
// descriptors.
#include "server/net/acceptor.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade::net {
namespace {

Socket connect_to(const sockaddr* address, socklen_t bytes) {
  Socket socket(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(connect(socket.get(), address, bytes), 0);
  return socket;
}

Socket connect_to(int32_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return connect_to(reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

// Whether the server closes the connection within some seconds.
bool gets_closed(const Socket& client) {
  pollfd watched{.fd = client.get(), .events = POLLIN, .revents = 0};
  char byte = 0;
  return poll(&watched, 1, 10'000) == 1 && recv(client.get(), &byte, 1, 0) <= 0;
}

// What an acceptor hands over.
class Received {
 public:
  Acceptor::Handover taker() {
    return [this](Socket socket) {
      const std::lock_guard lock(mutex_);
      sockets_.push_back(std::move(socket));
      came_.notify_all();
    };
  }
  // Waits until so many have come in all.
  bool wait_for(size_t count) {
    std::unique_lock lock(mutex_);
    return came_.wait_for(lock, std::chrono::seconds(10), [&] { return sockets_.size() >= count; });
  }
  void close_all() {
    const std::lock_guard lock(mutex_);
    for (const Socket& socket : sockets_) shutdown(socket.get(), SHUT_RDWR);
    sockets_.clear();
  }
  const Socket& operator[](size_t index) const { return sockets_[index]; }

 private:
  std::mutex mutex_;
  std::condition_variable came_;
  std::vector<Socket> sockets_;
};

Listener listener_at(const std::string& address) {
  auto listener =
      Listener::open(*parse_address(address, Sockets::kTcpAndUnix), Wildcard::kBothFamilies);
  EXPECT_TRUE(listener.ok()) << listener.status();
  return *std::move(listener);
}

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return condition();
}

class AcceptorTest : public ::testing::Test {
 protected:
  void start(const std::string& address, const ConnectionLimits& limits = {}) {
    Listener listener = listener_at(address);
    port_ = listener.port();
    connections_ = std::make_unique<Connections>(limits);
    auto acceptor = Acceptor::start(std::move(listener), *connections_, received_.taker());
    ASSERT_TRUE(acceptor.ok()) << acceptor.status();
    acceptor_ = *std::move(acceptor);
  }

  int32_t port_ = 0;
  Received received_;
  std::unique_ptr<Connections> connections_;
  std::unique_ptr<Acceptor> acceptor_;
};

TEST_F(AcceptorTest, HandsConnectionsOver) {
  start("127.0.0.1:0");
  const Socket client = connect_to(port_);
  ASSERT_TRUE(received_.wait_for(1));
  EXPECT_EQ(send(received_[0].get(), "hello", 5, 0), 5);
  char text[5] = {};
  EXPECT_EQ(recv(client.get(), text, 5, MSG_WAITALL), 5);
  EXPECT_EQ(fcntl(received_[0].get(), F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  EXPECT_TRUE(acceptor_->accepting());
  EXPECT_EQ(connections_->counts().open, 1);
  received_.close_all();
  EXPECT_TRUE(gets_closed(client));
  EXPECT_TRUE(eventually([&] { return connections_->counts().open == 0; }));
}

TEST_F(AcceptorTest, ServesUnixSocketsAndRemovesTheirFile) {
  const std::string path =
      (std::filesystem::path(::testing::TempDir()) / absl::StrCat("acceptor-", getpid())).string();
  start("unix:" + path);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const Socket client = connect_to(reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  EXPECT_TRUE(received_.wait_for(1));
  EXPECT_TRUE(std::filesystem::exists(path));
  acceptor_.reset();
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(AcceptorTest, RefusesConnectionsOnceItDoesNotListen) {
  start("127.0.0.1:0");
  const Socket early = connect_to(port_);
  ASSERT_TRUE(received_.wait_for(1));
  acceptor_->stop_listening();
  acceptor_->stop_listening();
  Socket late(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port_));
  EXPECT_NE(connect(late.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(errno, ECONNREFUSED);
  EXPECT_EQ(send(early.get(), "x", 1, 0), 1) << "what was handed over stays";
  received_.close_all();
  EXPECT_TRUE(eventually([&] { return connections_->counts().open == 0; })) << "the loop goes on";
}

TEST_F(AcceptorTest, ManyConnectionsMoreThanThereMayBe) {
  start("127.0.0.1:0", {.connections = 5});
  std::vector<Socket> clients;
  for (size_t i = 0; i < 100; ++i) clients.push_back(connect_to(port_));
  ASSERT_TRUE(received_.wait_for(100));  // the idle ones made room
  for (size_t i = 0; i < 95; ++i) EXPECT_TRUE(gets_closed(clients[i])) << i;
  EXPECT_EQ(connections_->counts().open, 5);
  EXPECT_EQ(connections_->counts().accepted, 100);
}

TEST_F(AcceptorTest, BusyConnectionsStayAndNewOnesAreRefused) {
  start("127.0.0.1:0", {.connections = 1});
  const Socket first = connect_to(port_);
  ASSERT_TRUE(received_.wait_for(1));
  sockaddr_storage address{};
  socklen_t bytes = sizeof(address);
  ASSERT_EQ(getsockname(first.get(), reinterpret_cast<sockaddr*>(&address), &bytes), 0);
  const auto call = connections_->begin_call(peer_of(address).name);
  ASSERT_NE(call, nullptr);
  EXPECT_TRUE(gets_closed(connect_to(port_)));
  EXPECT_EQ(connections_->counts().refused[static_cast<size_t>(RefusalReason::kMaxConnections)], 1);
  connections_->end_call(call, std::chrono::steady_clock::now());
  const Socket later = connect_to(port_);
  EXPECT_TRUE(received_.wait_for(2));
}

// Leaves the process no descriptors but those that it has.
class NoDescriptors {
 public:
  NoDescriptors() {
    getrlimit(RLIMIT_NOFILE, &before_);
    const Socket next(open("/dev/null", O_RDONLY | O_CLOEXEC));
    rlimit limit = before_;
    limit.rlim_cur = static_cast<rlim_t>(next.get());
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  }
  ~NoDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST_F(AcceptorTest, WithoutDescriptorsClientsAreToldAndLaterOnesServed) {
  start("127.0.0.1:0");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port_));
  std::vector<Socket> clients;
  for (int i = 0; i < 20; ++i) clients.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  {
    const NoDescriptors none;
    for (const Socket& client : clients) {
      ASSERT_EQ(connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
                0);
      EXPECT_TRUE(gets_closed(client));
    }
    EXPECT_TRUE(acceptor_->accepting());
  }
  EXPECT_EQ(connections_->counts().refused[static_cast<size_t>(RefusalReason::kDescriptors)], 20);
  const Socket later = connect_to(port_);
  EXPECT_TRUE(received_.wait_for(1));
}

}  // namespace
}  // namespace kascade::net
