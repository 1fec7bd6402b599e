// Where a listener listens, as users write it: HOST:PORT, or unix:PATH. The libraries that listen
// have parsers of their own, which take "0" for all interfaces on port 443 and wrap large ports.
#ifndef KASCADE_SERVER_NET_ADDRESS_H_
#define KASCADE_SERVER_NET_ADDRESS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kascade::net {

struct Address {
  std::string host{};       // a name or an address, without brackets; empty for a unix socket
  int32_t port = 0;         // 0 to 65535; 0 stands for any free port
  std::string unix_path{};  // of a unix socket, else empty

  // "HOST:PORT", with brackets around an IPv6 address, or "unix:PATH".
  std::string text() const;
};

// Whether an address may name a unix socket.
enum class Sockets { kTcpOnly, kTcpAndUnix };

// Parses "HOST:PORT" (an IPv6 address in brackets), or "unix:PATH". INVALID_ARGUMENT says what form
// is expected, and what is wrong with `text`. Names are not looked up.
absl::StatusOr<Address> parse_address(std::string_view text, Sockets allowed);

// Whether one can listen on the unix socket `address` now; the message names address and reason. A
// socket that answers belongs to a running server and is never taken over; one that nobody answers
// on was left behind by a server that was killed, and may be replaced. Another process may still be
// quicker.
absl::Status check_free(const Address& address);

// Whether only this machine can reach the address: a unix socket, or a host all of whose addresses
// are loopback. UNAVAILABLE: the host is not known.
absl::StatusOr<bool> is_local(const Address& address);

}  // namespace kascade::net

#endif  // KASCADE_SERVER_NET_ADDRESS_H_
