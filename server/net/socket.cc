#include "server/net/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"

namespace kascade::net {
namespace {

absl::Status unusable(const Address& address, const std::string& reason) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address.text(), ": ", reason));
}

}  // namespace

Socket::~Socket() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::StatusOr<Socket> bind_to(const SocketAddress& address) {
  Socket socket(::socket(address.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket.get() < 0) return absl::UnavailableError(std::strerror(errno));
  const int on = 1;
  // Connections of a server that has just ended do not keep its port.
  setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (address.family == AF_INET6) {
    setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
  }
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.bytes) == 0) {
    return socket;
  }
  const int code = errno;
  const char* reason = std::strerror(code);
  if (code == EADDRINUSE) return absl::AlreadyExistsError(reason);
  return absl::UnavailableError(reason);
}

int32_t port_of(const Socket& socket) {
  sockaddr_storage storage{};
  socklen_t bytes = sizeof(storage);
  if (getsockname(socket.get(), reinterpret_cast<sockaddr*>(&storage), &bytes) != 0) return 0;
  if (storage.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port);
  }
  return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
}

absl::Status for_each_socket_address(const Address& address,
                                     const std::function<absl::Status(const SocketAddress&)>& use) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string port = absl::StrCat(address.port);
  const int error = getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found);
  if (error != 0) {
    return unusable(address, absl::StrCat("the host is not known: ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  absl::Status first_error;
  bool used = false;
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    SocketAddress target{.family = entry->ai_family, .bytes = entry->ai_addrlen};
    std::memcpy(&target.storage, entry->ai_addr, entry->ai_addrlen);
    const absl::Status status = use(target);
    if (absl::IsAlreadyExists(status)) return unusable(address, std::string(status.message()));
    if (status.ok()) used = true;
    first_error.Update(status);
  }
  return used ? absl::OkStatus() : unusable(address, std::string(first_error.message()));
}

}  // namespace kascade::net
