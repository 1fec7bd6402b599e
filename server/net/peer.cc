#include "server/net/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <array>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace kascade::net {
namespace {

constexpr size_t kNetworkBytes = 8;  // of an IPv6 address: /64

Peer ipv4_peer(const sockaddr_in& address) {
  std::array<char, INET_ADDRSTRLEN> text{};
  inet_ntop(AF_INET, &address.sin_addr, text.data(), text.size());
  return {.name = absl::StrCat("ipv4:", text.data(), ":", ntohs(address.sin_port)),
          .host = text.data()};
}

Peer ipv6_peer(const sockaddr_in6& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  inet_ntop(AF_INET6, &address.sin6_addr, text.data(), text.size());
  const std::string zone =
      address.sin6_scope_id == 0 ? "" : absl::StrCat("%", address.sin6_scope_id);
  in6_addr network{};
  std::memcpy(&network, &address.sin6_addr, kNetworkBytes);
  std::array<char, INET6_ADDRSTRLEN> host{};
  inet_ntop(AF_INET6, &network, host.data(), host.size());
  return {.name = absl::StrCat("ipv6:[", text.data(), zone, "]:", ntohs(address.sin6_port)),
          .host = absl::StrCat(host.data(), "/64")};
}

}  // namespace

Peer peer_of(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    return ipv4_peer(reinterpret_cast<const sockaddr_in&>(address));
  }
  if (address.ss_family == AF_INET6) {
    return ipv6_peer(reinterpret_cast<const sockaddr_in6&>(address));
  }
  return {};
}

std::string peer_name(std::string_view grpc_peer) {
  std::string name;
  for (size_t i = 0; i < grpc_peer.size(); ++i) {
    // absl takes apart what is no pair of hexadecimal digits without an error.
    const bool escaped = grpc_peer[i] == '%' && i + 2 < grpc_peer.size();
    name += escaped ? absl::HexStringToBytes(std::string(grpc_peer.substr(i + 1, 2)))
                    : std::string(1, grpc_peer[i]);
    if (escaped) i += 2;
  }
  return name;
}

}  // namespace kascade::net
