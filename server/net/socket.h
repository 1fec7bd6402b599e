// Sockets of the operating system, closed when they go.
#ifndef KASCADE_SERVER_NET_SOCKET_H_
#define KASCADE_SERVER_NET_SOCKET_H_

#include <sys/socket.h>

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/net/address.h"

namespace kascade::net {

// A file descriptor, closed by the destructor.
class Socket {
 public:
  explicit Socket(int descriptor = -1) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Socket();
  int get() const { return descriptor_; }
  // Gives the descriptor away: whoever takes it closes it.
  int release() { return std::exchange(descriptor_, -1); }

 private:
  int descriptor_;
};

// One of the addresses that a host name stands for.
struct SocketAddress {
  int family = AF_INET;
  sockaddr_storage storage{};
  socklen_t bytes = 0;
};

// A TCP socket bound to this address, which does not listen yet. ALREADY_EXISTS: the address is in
// use; UNAVAILABLE: another reason. The message is the operating system's.
absl::StatusOr<Socket> bind_to(const SocketAddress& address);

// The port that a bound socket has.
int32_t port_of(const Socket& socket);

// Calls `use` for each address that the host of `address` stands for. OK if one of the calls is OK
// and none finds its address in use; else the first error, which begins with "cannot listen on
// HOST:PORT: ".
absl::Status for_each_socket_address(const Address& address,
                                     const std::function<absl::Status(const SocketAddress&)>& use);

}  // namespace kascade::net

#endif  // KASCADE_SERVER_NET_SOCKET_H_
