// Tests the sockets that listen: families, ports, unix sockets, and names of peers.
#include "server/net/listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/net/descriptors.h"
#include "server/net/peer.h"

namespace kascade::net {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<Listener> open(const std::string& address,
                              Wildcard wildcard = Wildcard::kBothFamilies) {
  return Listener::open(*parse_address(address, Sockets::kTcpAndUnix), wildcard);
}

std::string error_of(const std::string& address) {
  const auto listener = open(address);
  return listener.ok() ? "listens" : std::string(listener.status().message());
}

bool can_connect(int family, const std::string& host, int32_t port) {
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_port = htons(static_cast<uint16_t>(port));
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_port = six.sin6_port;
  const Socket client(socket(family, SOCK_STREAM, 0));
  if (family == AF_INET6) {
    inet_pton(AF_INET6, host.c_str(), &six.sin6_addr);
    return connect(client.get(), reinterpret_cast<const sockaddr*>(&six), sizeof(six)) == 0;
  }
  inet_pton(AF_INET, host.c_str(), &four.sin_addr);
  return connect(client.get(), reinterpret_cast<const sockaddr*>(&four), sizeof(four)) == 0;
}

TEST(Listener, AllInterfacesMeansBothFamiliesWhereAskedFor) {
  for (const std::string host : {"0.0.0.0", "[::]"}) {
    const auto both = open(host + ":0");
    ASSERT_TRUE(both.ok()) << both.status();
    EXPECT_TRUE(can_connect(AF_INET, "127.0.0.1", both->port()));
    EXPECT_TRUE(can_connect(AF_INET6, "::1", both->port()));
    const auto one = open(host + ":0", Wildcard::kOneFamily);
    ASSERT_TRUE(one.ok()) << one.status();
    EXPECT_EQ(can_connect(AF_INET, "127.0.0.1", one->port()), host == "0.0.0.0");
    EXPECT_EQ(can_connect(AF_INET6, "::1", one->port()), host == "[::]");
  }
}

TEST(Listener, AllAddressesOfANameHaveOnePort) {
  const auto listener = open("localhost:0");
  ASSERT_TRUE(listener.ok()) << listener.status();
  for (const Socket& socket : listener->sockets()) EXPECT_EQ(port_of(socket), listener->port());
  EXPECT_TRUE(can_connect(AF_INET, "127.0.0.1", listener->port()));
}

TEST(Listener, NamesAddressAndReason) {
  const auto first = open("127.0.0.1:0");
  ASSERT_TRUE(first.ok());
  for (const std::string host : {"127.0.0.1", "0.0.0.0", "localhost"}) {
    const std::string address = absl::StrCat(host, ":", first->port());
    EXPECT_THAT(error_of(address), AllOf(HasSubstr("cannot listen on " + address),
                                         HasSubstr("Address already in use")));
  }
  // Reserved for documentation, so that no machine has it.
  EXPECT_THAT(error_of("192.0.2.1:0"), HasSubstr("Cannot assign requested address"));
  EXPECT_THAT(error_of("no-such-host.invalid:0"), HasSubstr("the host is not known"));
}

TEST(Listener, UnixSocketsOfKilledServersAreReplacedAndOnlyItsOwnRemoved) {
  const std::string path =
      (std::filesystem::path(::testing::TempDir()) / absl::StrCat("listener-", getpid())).string();
  const std::string address = "unix:" + path;
  {
    const auto first = open(address);
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_EQ(first->port(), 0);
    EXPECT_THAT(error_of(address), HasSubstr("another server answers"));
    // Somebody puts another file in its place, which is not removed.
    std::filesystem::rename(path, path + ".old");
    std::ofstream(path) << "text";
  }
  EXPECT_THAT(error_of(address), HasSubstr("no socket"));
  std::filesystem::rename(path + ".old", path);  // a socket on which nobody answers any more
  {
    const auto second = open(address);
    EXPECT_TRUE(second.ok()) << second.status();
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Peer, HasANameAndAHost) {
  sockaddr_storage storage{};
  auto& four = reinterpret_cast<sockaddr_in&>(storage);
  four.sin_family = AF_INET;
  four.sin_port = htons(4711);
  inet_pton(AF_INET, "192.0.2.7", &four.sin_addr);
  EXPECT_EQ(peer_of(storage).name, "ipv4:192.0.2.7:4711");
  EXPECT_EQ(peer_of(storage).host, "192.0.2.7");
  storage = {};
  auto& six = reinterpret_cast<sockaddr_in6&>(storage);
  six.sin6_family = AF_INET6;
  six.sin6_port = htons(80);
  inet_pton(AF_INET6, "2001:db8:1:2:3:4:5:6", &six.sin6_addr);
  EXPECT_EQ(peer_of(storage).name, "ipv6:[2001:db8:1:2:3:4:5:6]:80");
  EXPECT_EQ(peer_of(storage).host, "2001:db8:1:2::/64");
  storage = {};
  storage.ss_family = AF_UNIX;
  EXPECT_EQ(peer_of(storage).name, "");
}

TEST(Peer, GrpcNamesItInAUri) {
  EXPECT_EQ(peer_name("ipv4:192.0.2.7:4711"), "ipv4:192.0.2.7:4711");
  EXPECT_EQ(peer_name("ipv6:%5B2001:db8::1%5D:80"), "ipv6:[2001:db8::1]:80");
  EXPECT_EQ(peer_name("unix:"), "unix:");
  EXPECT_EQ(peer_name("%"), "%");
  EXPECT_EQ(peer_name("x%4"), "x%4");
}

TEST(ConnectionLimit, FollowsTheDescriptors) {
  EXPECT_EQ(*connection_limit(0, 256), 64);
  EXPECT_EQ(*connection_limit(0, 1024), 448);
  EXPECT_EQ(*connection_limit(0, 1 << 20), 4096);
  EXPECT_EQ(*connection_limit(448, 1024), 448);
  EXPECT_EQ(*connection_limit(100'000, 1 << 20), 100'000);
  EXPECT_THAT(std::string(connection_limit(449, 1024).status().message()),
              AllOf(HasSubstr("max_connections"), HasSubstr("1026"), HasSubstr("1024")));
  EXPECT_FALSE(connection_limit(0, 129).ok());
}

TEST(DescriptorLimit, IsTheHardOneAfterwards) {
  EXPECT_GE(raise_descriptor_limit(), 64);
  EXPECT_EQ(raise_descriptor_limit(), raise_descriptor_limit());
}

}  // namespace
}  // namespace kascade::net
