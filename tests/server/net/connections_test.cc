// Tests which connections are let in, which one is closed to make room, and which is cut off.
#include "server/net/connections.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade::net {
namespace {

using std::chrono::seconds;

const Connections::Time kStart{std::chrono::hours(1)};

// The two ends of a connection.
std::pair<Socket, Socket> connected() {
  int ends[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  return {Socket(ends[0]), Socket(ends[1])};
}

// The same by TCP, so that the operating system knows when data came last.
std::pair<Socket, Socket> connected_by_tcp() {
  const Socket listener(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(listener.get(), 1), 0);
  address.sin_port = htons(static_cast<uint16_t>(port_of(listener)));
  Socket client(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_EQ(connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  Socket server(accept(listener.get(), nullptr, nullptr));
  return {std::move(server), std::move(client)};
}

bool is_closed(const Socket& client) {
  char byte = 0;
  return recv(client.get(), &byte, 1, MSG_DONTWAIT) == 0;
}

class ConnectionsTest : public ::testing::Test {
 protected:
  // Adds a connection number `port` of `host`; the client's end.
  Socket connect(Connections& connections, const std::string& host, int port, seconds at) {
    EXPECT_EQ(connections.make_room(host, kStart + at), std::nullopt);
    auto [server, client] = connected();
    descriptors_.push_back(server.get());
    connections.add(std::move(server),
                    {.name = absl::StrCat("ipv4:", host, ":", port), .host = host}, kStart + at);
    return std::move(client);
  }

  std::vector<int> descriptors_;  // as the connections are known, in the order of connect()
};

TEST_F(ConnectionsTest, TheLongestIdleOneMakesRoom) {
  Connections connections({.connections = 3});
  std::vector<Socket> clients;
  for (const int i : {0, 1, 2}) clients.push_back(connect(connections, "10.0.0.1", i, seconds(i)));
  // The first one has a call, and the second one had one until a moment ago.
  const auto running = connections.begin_call("ipv4:10.0.0.1:0");
  connections.end_call(connections.begin_call("ipv4:10.0.0.1:1"), kStart + seconds(5));
  const Socket fourth = connect(connections, "10.0.0.2", 3, seconds(6));
  EXPECT_FALSE(is_closed(clients[0]));
  EXPECT_FALSE(is_closed(clients[1]));
  EXPECT_TRUE(is_closed(clients[2]));
  EXPECT_EQ(connections.counts().open, 3);
  EXPECT_EQ(connections.counts().accepted, 4);
  EXPECT_EQ(connections.counts().closed[static_cast<size_t>(ClosureReason::kIdle)], 1);
  connections.end_call(running, kStart + seconds(7));
}

TEST_F(ConnectionsTest, WhereAllHaveCallsNobodyIsLetIn) {
  Connections connections({.connections = 2});
  const Socket first = connect(connections, "10.0.0.1", 0, seconds(0));
  const Socket second = connect(connections, "10.0.0.2", 1, seconds(1));
  const auto call = connections.begin_call("ipv4:10.0.0.1:0");
  const auto other = connections.begin_call("ipv4:10.0.0.2:1");
  EXPECT_EQ(connections.make_room("10.0.0.3", kStart), RefusalReason::kMaxConnections);
  // One call of two ends; then the other one.
  const auto third = connections.begin_call("ipv4:10.0.0.1:0");
  connections.end_call(call, kStart + seconds(2));
  EXPECT_EQ(connections.make_room("10.0.0.3", kStart), RefusalReason::kMaxConnections);
  connections.end_call(third, kStart + seconds(3));
  EXPECT_EQ(connections.make_room("10.0.0.3", kStart), std::nullopt);
  EXPECT_TRUE(is_closed(first));
  connections.end_call(other, kStart + seconds(4));
}

TEST_F(ConnectionsTest, AHostAtItsLimitClosesItsOwn) {
  Connections connections({.connections = 10, .per_host = 2});
  const Socket other = connect(connections, "10.0.0.2", 0, seconds(0));
  const Socket first = connect(connections, "10.0.0.1", 1, seconds(1));
  const Socket second = connect(connections, "10.0.0.1", 2, seconds(2));
  const Socket third = connect(connections, "10.0.0.1", 3, seconds(3));
  EXPECT_FALSE(is_closed(other));  // idle for longer, but of another host
  EXPECT_TRUE(is_closed(first));
  EXPECT_FALSE(is_closed(second));
  const auto one = connections.begin_call("ipv4:10.0.0.1:2");
  const auto two = connections.begin_call("ipv4:10.0.0.1:3");
  EXPECT_EQ(connections.make_room("10.0.0.1", kStart), RefusalReason::kMaxConnectionsPerPeer);
  EXPECT_EQ(connections.make_room("10.0.0.3", kStart), std::nullopt);
  connections.end_call(one, kStart);
  connections.end_call(two, kStart);
}

TEST_F(ConnectionsTest, WhatHasEndedIsForgotten) {
  Connections connections({.connections = 2});
  const Socket first = connect(connections, "10.0.0.1", 0, seconds(0));
  const auto call = connections.begin_call("ipv4:10.0.0.1:0");
  connections.remove(descriptors_[0]);
  connections.remove(descriptors_[0]);
  EXPECT_EQ(connections.counts().open, 0);
  EXPECT_EQ(connections.begin_call("ipv4:10.0.0.1:0"), nullptr);
  // The next one from the same port is another one.
  const Socket again = connect(connections, "10.0.0.1", 0, seconds(1));
  const auto later = connections.begin_call("ipv4:10.0.0.1:0");
  ASSERT_NE(later, nullptr);
  EXPECT_NE(later, call);
  connections.end_call(call, kStart + seconds(2));
  EXPECT_EQ(later->calls, 1);
  connections.end_call(later, kStart + seconds(2));
}

TEST_F(ConnectionsTest, TrafficIsReportedAndCutOff) {
  Connections connections({.connections = 3});
  auto [server, client] = connected_by_tcp();
  auto [quiet, quiet_client] = connected_by_tcp();
  const int descriptor = server.get();
  connections.add(std::move(server), {.name = "loud", .host = "10.0.0.1"}, kStart);
  connections.add(std::move(quiet), {.name = "quiet", .host = "10.0.0.1"}, kStart);
  ASSERT_EQ(send(client.get(), std::string(5000, 'x').data(), 5000, 0), 5000);
  const auto traffic = connections.with_traffic(5000);
  ASSERT_EQ(traffic.size(), 1u);
  EXPECT_EQ(traffic[0].name, "loud");
  EXPECT_EQ(traffic[0].duplicate, descriptor);
  EXPECT_EQ(traffic[0].bytes, 5000);
  EXPECT_TRUE(connections.with_traffic(1).empty());  // since the last report
  const int again = dup(descriptor);
  connections.abort({.duplicate = descriptor + 1, .name = "loud"}, ClosureReason::kStreams);
  EXPECT_EQ(connections.counts().open, 2);  // another connection, with a name that was used before
  connections.abort(traffic[0], ClosureReason::kStreams);
  EXPECT_EQ(connections.counts().open, 1);
  EXPECT_EQ(connections.counts().closed[static_cast<size_t>(ClosureReason::kStreams)], 1);
  char byte = 0;
  EXPECT_EQ(recv(again, &byte, 1, MSG_DONTWAIT), -1);  // what was sent is gone
  close(again);
  EXPECT_LE(recv(client.get(), &byte, 1, 0), 0);
}

TEST_F(ConnectionsTest, WhoSendsIsNotIdle) {
  Connections connections({.connections = 2});
  auto [busy, busy_client] = connected_by_tcp();
  auto [silent, silent_client] = connected();
  // By what the connections know, the first one has been idle for longer.
  const auto now = std::chrono::steady_clock::now();
  connections.add(std::move(busy), {.name = "busy", .host = "10.0.0.1"}, now - seconds(60));
  connections.add(std::move(silent), {.name = "silent", .host = "10.0.0.1"}, now - seconds(50));
  ASSERT_EQ(send(busy_client.get(), "x", 1, 0), 1);
  EXPECT_EQ(connections.make_room("10.0.0.2", now + seconds(1)), std::nullopt);
  EXPECT_FALSE(is_closed(busy_client));
  EXPECT_TRUE(is_closed(silent_client));
}

TEST_F(ConnectionsTest, ClientsOfAUnixSocketAreNotClosed) {
  Connections connections({.connections = 1});
  auto [server, client] = connected();
  connections.add(std::move(server), {}, kStart);
  EXPECT_EQ(connections.make_room("", kStart + seconds(9)), RefusalReason::kMaxConnections);
  EXPECT_FALSE(is_closed(client));
}

TEST(ConnectionReasons, HaveNames) {
  EXPECT_EQ(name_of(RefusalReason::kMaxConnections), "max_connections");
  EXPECT_EQ(name_of(RefusalReason::kMaxConnectionsPerPeer), "max_connections_per_peer");
  EXPECT_EQ(name_of(RefusalReason::kDescriptors), "descriptors");
  EXPECT_EQ(name_of(ClosureReason::kIdle), "idle");
  EXPECT_EQ(name_of(ClosureReason::kStreams), "streams");
  EXPECT_EQ(name_of(ClosureReason::kData), "data");
}

}  // namespace
}  // namespace kascade::net
