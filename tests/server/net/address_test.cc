// Tests the addresses to listen on: which forms are read, which are refused in which words, and
// what is said of addresses that are taken.
#include "server/net/address.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/net/socket.h"

namespace kascade::net {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string error_of(const absl::Status& status) {
  return status.ok() ? "accepted" : std::string(status.message());
}

std::string error_of(std::string_view text, Sockets allowed = Sockets::kTcpAndUnix) {
  return error_of(parse_address(text, allowed).status());
}

TEST(Address, HostsAndPorts) {
  const std::tuple<const char*, const char*, int> cases[] = {
      {"127.0.0.1:50051", "127.0.0.1", 50051},
      {"localhost:0", "localhost", 0},
      {"[::1]:0", "::1", 0},
      {"[::]:65535", "::", 65535},
      {"[fe80::1%lo]:1", "fe80::1%lo", 1},
      {"node-7.example.org:80", "node-7.example.org", 80},
      {"0.0.0.0:8080", "0.0.0.0", 8080},
      {"a_b:00080", "a_b", 80}};
  for (const auto& [text, host, port] : cases) {
    const auto address = parse_address(text, Sockets::kTcpOnly);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->host, host);
    EXPECT_EQ(address->port, port);
    const auto again = parse_address(address->text(), Sockets::kTcpOnly);
    ASSERT_TRUE(again.ok()) << address->text();
    EXPECT_EQ(again->host, host);
  }
}

TEST(Address, WhatIsNoAddressIsToldTheForm) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "there is no port"},
      {"0", "there is no port"},
      {"50051", "there is no port"},
      {"localhost", "there is no port"},
      {":50051", "no host before the colon"},
      {":0", "no host before the colon"},
      {"127.0.0.1:", "not a whole number from 0 to 65535"},
      {"127.0.0.1:65536", "not a whole number"},
      {"127.0.0.1:99999", "not a whole number"},
      {"127.0.0.1:4294967296", "not a whole number"},
      {"127.0.0.1:18446744073709551616", "not a whole number"},
      {"127.0.0.1:-1", "not a whole number"},
      {"127.0.0.1:+80", "not a whole number"},
      {"127.0.0.1:0x50", "not a whole number"},
      {"127.0.0.1:80.0", "not a whole number"},
      {"127.0.0.1: 80", "not a whole number"},
      {"127.0.0.1:http", "not a whole number"},
      {"::1:50051", "an IPv6 address stands in brackets"},
      {"a:b:1", "more than one colon"},
      {"[::1]", "expected [IPV6-ADDRESS]:PORT"},
      {"[::1]50051", "expected [IPV6-ADDRESS]:PORT"},
      {"[::1:50051", "expected [IPV6-ADDRESS]:PORT"},
      {"[127.0.0.1]:80", "no IPv6 address"},
      {"[]:80", "no IPv6 address"},
      {"1.2.3:80", "no IPv4 address"},
      {"256.0.0.1:80", "no IPv4 address"},
      {"0:80", "no IPv4 address"},
      {"http://localhost:80", "more than one colon"},
      {"local host:80", "neither an address nor a name"},
      {"*:80", "neither an address nor a name"},
      {"unix:", "the path is empty"}};
  for (const auto& [text, fault] : cases) {
    EXPECT_THAT(error_of(text),
                AllOf(HasSubstr("HOST:PORT"), HasSubstr("0 to 65535"), HasSubstr(fault)))
        << text;
  }
  EXPECT_LT(error_of(std::string(100'000, 'x')).size(), 500u);
  EXPECT_THAT(error_of("unix:/" + std::string(107, 'x')), HasSubstr("at most 107"));
  EXPECT_THAT(error_of("unix:/tmp/x", Sockets::kTcpOnly), HasSubstr("not served here"));
}

TEST(Address, UnixPaths) {
  for (const auto& [text, path] : {std::pair{"unix:/run/kascade", "/run/kascade"},
                                   {"unix:///run/kascade", "/run/kascade"},
                                   {"unix:here", "here"}}) {
    const auto address = parse_address(text, Sockets::kTcpAndUnix);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->unix_path, path);
  }
}

// ---- Addresses that are taken -------------------------------------------------------------------

// A socket that listens at a path.
Socket listening_at(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  Socket socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_EQ(bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(socket.get(), 1), 0);
  return socket;
}

std::string fault_of(const std::string& text) {
  return error_of(check_free(*parse_address(text, Sockets::kTcpAndUnix)));
}

TEST(AddressInUse, LiveSocketsAreNotTaken) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / absl::StrCat("address-", getpid());
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "socket").string();
  EXPECT_EQ(fault_of("unix:" + path), "accepted");
  {
    const Socket live = listening_at(path);
    EXPECT_THAT(fault_of("unix:" + path), HasSubstr("another server answers on this socket"));
    EXPECT_THAT(fault_of("unix://" + path), HasSubstr("in use"));
    std::filesystem::create_symlink(path, folder / "link");
    EXPECT_THAT(fault_of("unix:" + (folder / "link").string()), HasSubstr("in use"));
  }
  // Nobody answers any more; the file is still there.
  ASSERT_TRUE(std::filesystem::exists(path));
  EXPECT_EQ(fault_of("unix:" + path), "accepted");
  std::ofstream(folder / "file") << "text";
  EXPECT_THAT(fault_of("unix:" + (folder / "file").string()), HasSubstr("no socket"));
  EXPECT_THAT(fault_of("unix:" + folder.string()), HasSubstr("no socket"));
  EXPECT_THAT(fault_of("unix:" + (folder / "none/socket").string()),
              HasSubstr("No such file or directory"));
  std::filesystem::remove_all(folder);
}

TEST(AddressReach, LoopbackAndUnixSocketsAreLocal) {
  for (const char* text : {"127.0.0.1:1", "127.1.2.3:1", "localhost:1", "[::1]:1",
                           "[::ffff:127.0.0.1]:1", "unix:/run/kascade.sock"}) {
    EXPECT_TRUE(is_local(*parse_address(text, Sockets::kTcpAndUnix)).value()) << text;
  }
  for (const char* text : {"0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1",
                           "[::ffff:192.0.2.1]:1", "[fe80::1]:1"}) {
    EXPECT_FALSE(is_local(*parse_address(text, Sockets::kTcpAndUnix)).value()) << text;
  }
  EXPECT_THAT(error_of(is_local({.host = "no-such-host.invalid"}).status()),
              HasSubstr("the host is not known"));
}

}  // namespace
}  // namespace kascade::net
