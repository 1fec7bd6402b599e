// Who is at the other end of a connection.
#ifndef KASCADE_SERVER_NET_PEER_H_
#define KASCADE_SERVER_NET_PEER_H_

#include <sys/socket.h>

#include <string>
#include <string_view>

namespace kascade::net {

struct Peer {
  // Of this connection alone, such as "ipv4:192.0.2.1:40000" and "ipv6:[2001:db8::1]:40000"; empty
  // if there is none, as for a unix socket.
  std::string name{};
  // Of all connections that are counted together: the IPv4 address, the /64 network of an IPv6
  // address (whoever has one address of it has all). Empty if `name` is.
  std::string host{};
};

// The peer that accept() or getpeername() told.
Peer peer_of(const sockaddr_storage& address);

// Peer::name of the connection for which gRPC gives this peer, a URI.
std::string peer_name(std::string_view grpc_peer);

}  // namespace kascade::net

#endif  // KASCADE_SERVER_NET_PEER_H_
