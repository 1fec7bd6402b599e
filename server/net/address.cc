#include "server/net/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "server/net/socket.h"

namespace kascade::net {
namespace {

constexpr std::string_view kUnix = "unix:";
constexpr int32_t kMaxPort = 65535;
constexpr size_t kMaxHostBytes = 253;
constexpr size_t kMaxShownBytes = 80;

bool is_ipv4(const std::string& host) {
  in_addr address{};
  return inet_pton(AF_INET, host.c_str(), &address) == 1;
}

bool is_ipv6(const std::string& host) {
  in6_addr address{};
  const std::string without_zone = host.substr(0, host.find('%'));
  return inet_pton(AF_INET6, without_zone.c_str(), &address) == 1;
}

bool is_host_character(char c) {
  const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  return letter || c == '-' || c == '.' || c == '_';
}

// What is wrong with a host that stands without brackets; empty if nothing is.
std::string fault_of_host(const std::string& host) {
  if (host.empty()) return "there is no host before the colon";
  if (host.find(':') != std::string::npos) {
    return is_ipv6(host) ? "an IPv6 address stands in brackets" : "there is more than one colon";
  }
  if (host.size() > kMaxHostBytes || !std::ranges::all_of(host, is_host_character)) {
    return "the host is neither an address nor a name";
  }
  // The system's resolver would take "1" for 0.0.0.1 and "10.1" for 10.0.0.1.
  const bool numeric = host.find_first_not_of("0123456789.") == std::string::npos;
  if (numeric && !is_ipv4(host)) return "the host is no IPv4 address";
  return "";
}

std::optional<int32_t> parse_port(std::string_view text) {
  const bool digits = std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
  if (text.empty() || !digits) return std::nullopt;
  int32_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || port > kMaxPort) return std::nullopt;
  return port;
}

absl::Status malformed(std::string_view text, Sockets allowed, const std::string& fault) {
  std::string shown(text.substr(0, kMaxShownBytes));
  if (shown.size() < text.size()) shown += "…";
  return absl::InvalidArgumentError(absl::StrCat(
      "expected HOST:PORT with a port of 0 to 65535 (0 takes any free one), such as "
      "127.0.0.1:50051 or [::1]:50051",
      allowed == Sockets::kTcpAndUnix ? ", or unix:PATH" : "", "; found \"", shown, "\": ", fault));
}

absl::StatusOr<Address> parse_unix(std::string_view text, Sockets allowed) {
  if (allowed == Sockets::kTcpOnly) {
    return malformed(text, allowed, "unix sockets are not served here");
  }
  std::string_view path = text.substr(kUnix.size());
  if (path.starts_with("//")) path.remove_prefix(2);  // the form unix:///path
  if (path.empty()) return malformed(text, allowed, "the path is empty");
  constexpr size_t kMaxPathBytes = sizeof(sockaddr_un::sun_path) - 1;
  if (path.size() > kMaxPathBytes) {
    return malformed(text, allowed,
                     absl::StrCat("the path has ", path.size(), " bytes; at most ", kMaxPathBytes,
                                  " are possible"));
  }
  return Address{.unix_path = std::string(path)};
}

absl::Status busy(const Address& address, const std::string& reason) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address.text(), ": ", reason));
}

bool is_loopback(const SocketAddress& address) {
  if (address.family == AF_INET) {
    const auto& ipv4 = reinterpret_cast<const sockaddr_in&>(address.storage);
    return ntohl(ipv4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
  }
  const in6_addr& ipv6 = reinterpret_cast<const sockaddr_in6&>(address.storage).sin6_addr;
  const bool mapped = IN6_IS_ADDR_V4MAPPED(&ipv6) && ipv6.s6_addr[12] == IN_LOOPBACKNET;
  return IN6_IS_ADDR_LOOPBACK(&ipv6) || mapped;
}

}  // namespace

std::string Address::text() const {
  if (!unix_path.empty()) return absl::StrCat(std::string(kUnix), unix_path);
  const bool brackets = host.find(':') != std::string::npos;
  return brackets ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<Address> parse_address(std::string_view text, Sockets allowed) {
  if (text.starts_with(kUnix)) return parse_unix(text, allowed);
  const size_t colon = text.rfind(':');
  const bool in_brackets = text.starts_with('[');
  const size_t bracket = text.find(']');
  if (in_brackets && (bracket == text.npos || bracket + 1 != colon)) {
    return malformed(text, allowed, "expected [IPV6-ADDRESS]:PORT");
  }
  if (colon == text.npos) return malformed(text, allowed, "there is no port");
  Address address{.host = std::string(text.substr(0, colon))};
  if (in_brackets) {
    address.host = std::string(text.substr(1, bracket - 1));
    if (!is_ipv6(address.host)) {
      return malformed(text, allowed, "what stands in brackets is no IPv6 address");
    }
  } else if (const std::string fault = fault_of_host(address.host); !fault.empty()) {
    return malformed(text, allowed, fault);
  }
  const auto port = parse_port(text.substr(colon + 1));
  if (!port) {
    return malformed(text, allowed, "the port is not a whole number from 0 to 65535");
  }
  address.port = *port;
  return address;
}

absl::Status check_free(const Address& address) {
  const std::filesystem::path path = address.unix_path;
  struct stat info{};
  if (stat(path.c_str(), &info) != 0) {
    if (errno != ENOENT) return busy(address, std::strerror(errno));
    const auto folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
    if (access(folder.c_str(), W_OK | X_OK) == 0) return absl::OkStatus();
    return busy(address, absl::StrCat(folder.string(), ": ", std::strerror(errno)));
  }
  if (!S_ISSOCK(info.st_mode)) return busy(address, "there is a file that is no socket");
  const Socket probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un target{};
  target.sun_family = AF_UNIX;
  address.unix_path.copy(target.sun_path, sizeof(target.sun_path) - 1);
  // EAGAIN: whoever listens has not yet accepted those who came before.
  if (connect(probe.get(), reinterpret_cast<const sockaddr*>(&target), sizeof(target)) == 0 ||
      errno == EAGAIN) {
    return busy(address, "the address is in use: another server answers on this socket");
  }
  if (errno == ECONNREFUSED) return absl::OkStatus();
  return busy(address, std::strerror(errno));
}

absl::StatusOr<bool> is_local(const Address& address) {
  if (!address.unix_path.empty()) return true;
  bool local = true;
  const absl::Status status = for_each_socket_address(address, [&](const SocketAddress& target) {
    local = local && is_loopback(target);
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return local;
}

}  // namespace kascade::net
