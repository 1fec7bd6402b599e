// The sockets that listen on an address.
#ifndef KASCADE_SERVER_NET_LISTENER_H_
#define KASCADE_SERVER_NET_LISTENER_H_

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/net/address.h"
#include "server/net/socket.h"

namespace kascade::net {

// What the hosts 0.0.0.0 and :: stand for.
enum class Wildcard {
  kOneFamily,    // all interfaces, by IPv4 or IPv6 as written
  kBothFamilies  // all interfaces, by IPv4 and IPv6 if the machine has both
};

class Listener {
 public:
  // Listens on every address that the host stands for, on one port, or on a unix socket.
  // UNAVAILABLE "cannot listen on ADDRESS: reason". A unix socket that a killed server left behind
  // is replaced; one on which a server answers is not.
  static absl::StatusOr<Listener> open(const Address& address, Wildcard wildcard);

  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;
  ~Listener();  // removes the file of its unix socket, unless it has been replaced meanwhile

  const std::vector<Socket>& sockets() const { return sockets_; }  // none of them blocks
  int32_t port() const { return port_; }                           // 0 for a unix socket

 private:
  Listener() = default;
  absl::Status open_tcp(const Address& address, Wildcard wildcard);
  absl::Status open_unix(const Address& address);

  std::vector<Socket> sockets_;
  int32_t port_ = 0;
  std::string unix_path_;  // of the file to remove, else empty
  ino_t unix_file_ = 0;    // which file that is
};

}  // namespace kascade::net

#endif  // KASCADE_SERVER_NET_LISTENER_H_
