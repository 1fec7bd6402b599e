#include "server/net/acceptor.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/net/peer.h"

namespace kascade::net {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPatience = std::chrono::seconds(10);
constexpr int kTickMs = 1000;           // between two passes without an event
constexpr int kPauseMs = 50;            // after a pass in which the operating system refused
constexpr int kConnectionsAtOnce = 64;  // of one listener, before the others have their turn
constexpr int kUnackedMs = 20'000;      // for data to be acknowledged, as gRPC's keepalive

Socket open_spare() { return Socket(open("/dev/null", O_RDONLY | O_CLOEXEC)); }

bool watch(const Socket& events, int descriptor, uint32_t wanted) {
  epoll_event event{};
  event.events = wanted;
  event.data.fd = descriptor;
  return epoll_ctl(events.get(), EPOLL_CTL_ADD, descriptor, &event) == 0;
}

// What gRPC sets on the listener, from which accepted connections have it.
void set_tcp_options(const Socket& socket) {
  const int on = 1;
  setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  setsockopt(socket.get(), IPPROTO_TCP, TCP_USER_TIMEOUT, &kUnackedMs, sizeof(kUnackedMs));
}

absl::Status no_descriptors() {
  return absl::UnavailableError(absl::StrCat("cannot accept connections: ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Acceptor>> Acceptor::start(Listener listener,
                                                          Connections& connections,
                                                          Handover handover) {
  Socket events(epoll_create1(EPOLL_CLOEXEC));
  Socket stop(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  Socket spare = open_spare();
  if (events.get() < 0 || stop.get() < 0 || spare.get() < 0) return no_descriptors();
  std::unique_ptr<Acceptor> acceptor(new Acceptor(std::move(listener), connections,
                                                  std::move(handover), std::move(events),
                                                  std::move(stop), std::move(spare)));
  if (absl::Status status = acceptor->watch_listener(); !status.ok()) return status;
  acceptor->thread_ = std::thread([raw = acceptor.get()] { raw->run(); });
  return acceptor;
}

Acceptor::Acceptor(Listener listener, Connections& connections, Handover handover, Socket events,
                   Socket stop, Socket spare)
    : listener_(std::move(listener)),
      connections_(connections),
      handover_(std::move(handover)),
      events_(std::move(events)),
      stop_(std::move(stop)),
      spare_(std::move(spare)),
      last_good_pass_(Clock::now()) {}

Acceptor::~Acceptor() {
  eventfd_write(stop_.get(), 1);
  if (thread_.joinable()) thread_.join();
}

void Acceptor::stop_listening() {
  for (const Socket& socket : listener_.sockets()) shutdown(socket.get(), SHUT_RD);
}

bool Acceptor::accepting() const { return Clock::now() - last_good_pass_.load() < kPatience; }

absl::Status Acceptor::watch_listener() {
  bool watched = watch(events_, stop_.get(), EPOLLIN);
  for (const Socket& socket : listener_.sockets()) {
    watched = watched && watch(events_, socket.get(), EPOLLIN);
  }
  return watched ? absl::OkStatus() : no_descriptors();
}

void Acceptor::run() {
  const auto is_listener = [this](int descriptor) {
    return std::ranges::any_of(listener_.sockets(), [descriptor](const Socket& socket) {
      return socket.get() == descriptor;
    });
  };
  while (true) {
    std::array<epoll_event, 256> events{};
    const int count = epoll_wait(events_.get(), events.data(), events.size(), kTickMs);
    bool refused = count < 0 && errno != EINTR;
    // Connections that have ended make room for new ones.
    for (int i = 0; i < count; ++i) {
      const int descriptor = events[i].data.fd;
      if (descriptor == stop_.get()) return;
      if (is_listener(descriptor)) continue;
      // Closing is not enough: epoll would go on telling of it while gRPC has its descriptor.
      epoll_ctl(events_.get(), EPOLL_CTL_DEL, descriptor, nullptr);
      connections_.remove(descriptor);
    }
    for (int i = 0; i < count; ++i) {
      const int descriptor = events[i].data.fd;
      if (is_listener(descriptor) && !accept_some(descriptor)) refused = true;
    }
    if (!refused) {
      last_good_pass_ = Clock::now();
      continue;
    }
    pollfd stopping{.fd = stop_.get(), .events = POLLIN, .revents = 0};
    poll(&stopping, 1, kPauseMs);
  }
}

bool Acceptor::accept_some(int listener) {
  if (spare_.get() < 0) spare_ = open_spare();
  for (int i = 0; i < kConnectionsAtOnce; ++i) {
    sockaddr_storage address{};
    socklen_t bytes = sizeof(address);
    Socket connection(accept4(listener, reinterpret_cast<sockaddr*>(&address), &bytes,
                              SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (connection.get() >= 0) {
      admit(std::move(connection), address);
    } else if (errno == EAGAIN) {
      return true;
    } else if (errno == EINVAL) {  // after stop_listening()
      epoll_ctl(events_.get(), EPOLL_CTL_DEL, listener, nullptr);
      return true;
    } else if (errno == EMFILE || errno == ENFILE) {
      if (!turn_away(listener)) return false;
    } else if (errno == ENOBUFS || errno == ENOMEM) {
      return false;
    }
    // Other errors are those of a connection that has ended while it waited.
  }
  return true;
}

void Acceptor::admit(Socket connection, const sockaddr_storage& address) {
  Peer peer = peer_of(address);
  const auto now = Clock::now();
  if (const auto reason = connections_.make_room(peer.host, now)) {
    connections_.refuse(*reason);
    return;
  }
  Socket duplicate(fcntl(connection.get(), F_DUPFD_CLOEXEC, 0));
  if (duplicate.get() < 0) {
    connections_.refuse(RefusalReason::kDescriptors);
    return;
  }
  if (address.ss_family != AF_UNIX) set_tcp_options(connection);
  const int known_as = duplicate.get();
  connections_.add(std::move(duplicate), std::move(peer), now);
  // Without a wanted event, epoll still tells when both sides have closed.
  if (!watch(events_, known_as, 0)) {
    connections_.remove(known_as);
    connections_.refuse(RefusalReason::kDescriptors);
    return;
  }
  handover_(std::move(connection));
}

bool Acceptor::turn_away(int listener) {
  if (spare_.get() < 0) return false;
  spare_ = Socket();
  {
    const Socket connection(accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (connection.get() >= 0) connections_.refuse(RefusalReason::kDescriptors);
  }
  spare_ = open_spare();
  return spare_.get() >= 0;
}

}  // namespace kascade::net
