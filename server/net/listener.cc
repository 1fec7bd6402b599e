#include "server/net/listener.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kascade::net {
namespace {

absl::Status listen_on(const Socket& socket) {
  if (listen(socket.get(), SOMAXCONN) == 0) return absl::OkStatus();
  const int code = errno;
  return code == EADDRINUSE ? absl::AlreadyExistsError(std::strerror(code))
                            : absl::UnavailableError(std::strerror(code));
}

// Listens on `target` with its port replaced by `port`, which becomes the one that was taken.
absl::Status listen_at(SocketAddress target, int32_t& port, std::vector<Socket>& out) {
  const auto wanted = htons(static_cast<uint16_t>(port));
  if (target.family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(&target.storage)->sin6_port = wanted;
  } else {
    reinterpret_cast<sockaddr_in*>(&target.storage)->sin_port = wanted;
  }
  auto socket = bind_to(target);
  if (!socket.ok()) return socket.status();
  if (absl::Status status = listen_on(*socket); !status.ok()) return status;
  port = port_of(*socket);
  out.push_back(*std::move(socket));
  return absl::OkStatus();
}

absl::Status unusable(const Address& address) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", address.text(), ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<Listener> Listener::open(const Address& address, Wildcard wildcard) {
  Listener listener;
  absl::Status status = address.unix_path.empty() ? listener.open_tcp(address, wildcard)
                                                  : listener.open_unix(address);
  if (!status.ok()) return status;
  return listener;
}

Listener::Listener(Listener&& other) noexcept
    : sockets_(std::move(other.sockets_)),
      port_(other.port_),
      unix_path_(std::exchange(other.unix_path_, {})),
      unix_file_(other.unix_file_) {}

Listener::~Listener() {
  struct stat info{};
  if (unix_path_.empty() || stat(unix_path_.c_str(), &info) != 0) return;
  if (info.st_ino == unix_file_) unlink(unix_path_.c_str());
}

absl::Status Listener::open_tcp(const Address& address, Wildcard wildcard) {
  port_ = address.port;
  const auto listen_there = [this](const SocketAddress& target) {
    return listen_at(target, port_, sockets_);
  };
  absl::Status status = for_each_socket_address(address, listen_there);
  const bool any = address.host == "0.0.0.0" || address.host == "::";
  if (!status.ok() || !any || wildcard == Wildcard::kOneFamily) return status;
  const Address other{.host = address.host == "::" ? "0.0.0.0" : "::", .port = port_};
  // A machine without the other family, or with another server on it, serves the family that was
  // asked for.
  for_each_socket_address(other, listen_there).IgnoreError();
  return absl::OkStatus();
}

absl::Status Listener::open_unix(const Address& address) {
  if (absl::Status status = check_free(address); !status.ok()) return status;
  Socket socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket.get() < 0) return unusable(address);
  sockaddr_un target{};
  target.sun_family = AF_UNIX;
  address.unix_path.copy(target.sun_path, sizeof(target.sun_path) - 1);
  unlink(address.unix_path.c_str());  // what a killed server left behind
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&target), sizeof(target)) != 0) {
    return unusable(address);
  }
  struct stat info{};
  if (stat(address.unix_path.c_str(), &info) != 0 || listen(socket.get(), SOMAXCONN) != 0) {
    return unusable(address);
  }
  unix_path_ = address.unix_path;
  unix_file_ = info.st_ino;
  sockets_.push_back(std::move(socket));
  return absl::OkStatus();
}

}  // namespace kascade::net
