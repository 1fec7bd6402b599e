// Accepts connections for gRPC, whose own accept loop ends for ever when the process has no
// descriptor left (docs/decisions/0076-our-own-accept-loop.md).
#ifndef KASCADE_SERVER_NET_ACCEPTOR_H_
#define KASCADE_SERVER_NET_ACCEPTOR_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "server/net/connections.h"
#include "server/net/listener.h"
#include "server/net/socket.h"

namespace kascade::net {

class Acceptor {
 public:
  // Takes an accepted connection, which does not block. Called on the acceptor's thread.
  using Handover = std::function<void(Socket connection)>;

  // Accepts on a thread of its own until it is destroyed. UNAVAILABLE: the operating system gives
  // no descriptors for that. `connections` must outlive the acceptor.
  static absl::StatusOr<std::unique_ptr<Acceptor>> start(Listener listener,
                                                         Connections& connections,
                                                         Handover handover);
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;
  // Closes the listener. Connections that were handed over stay.
  ~Acceptor();

  // New connections are refused by the operating system from now on, so that clients go elsewhere;
  // those that were handed over stay. Thread-safe, idempotent.
  void stop_listening();

  // Whether the loop has run within the last ten seconds without being refused what it needs to
  // accept or turn away a connection.
  bool accepting() const;

 private:
  Acceptor(Listener listener, Connections& connections, Handover handover, Socket events,
           Socket stop, Socket spare);
  absl::Status watch_listener();
  void run();
  // Accepts what waits, but not for ever. False if the operating system refused.
  bool accept_some(int listener);
  // Registers the connection and hands it over, or closes it if there is no room.
  void admit(Socket connection, const sockaddr_storage& address);
  // With no descriptor left: closes the spare one to accept a connection and close it, so that the
  // client hears at once that it is refused. False if even that is not possible.
  bool turn_away(int listener);

  const Listener listener_;
  Connections& connections_;
  const Handover handover_;
  const Socket events_;  // an epoll descriptor
  const Socket stop_;    // an eventfd
  Socket spare_;         // kept for turn_away()
  std::atomic<Connections::Time> last_good_pass_;
  std::thread thread_;
};

}  // namespace kascade::net

#endif  // KASCADE_SERVER_NET_ACCEPTOR_H_
