// The open connections of a listener: how many there may be, and which of them goes when there is
// no room for a new one. Does no input or output but closing.
#ifndef KASCADE_SERVER_NET_CONNECTIONS_H_
#define KASCADE_SERVER_NET_CONNECTIONS_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "server/net/peer.h"
#include "server/net/socket.h"

namespace kascade::net {

struct ConnectionLimits {
  int32_t connections = 4096;  // at once
  int32_t per_host = 0;        // of these, of one Peer::host; 0 = no limit
};

// Why a new connection was closed at once.
enum class RefusalReason { kMaxConnections, kMaxConnectionsPerPeer, kDescriptors };
inline constexpr size_t kRefusalReasons = 3;
std::string_view name_of(RefusalReason reason);

// Why the server closed a connection that it had accepted.
enum class ClosureReason { kIdle, kStreams, kData };
inline constexpr size_t kClosureReasons = 3;
std::string_view name_of(ClosureReason reason);

struct ConnectionCounts {
  int64_t open = 0;  // now; the others only grow
  int64_t accepted = 0;
  std::array<int64_t, kRefusalReasons> refused{};  // [RefusalReason]
  std::array<int64_t, kClosureReasons> closed{};   // [ClosureReason]
};

// Thread-safe.
class Connections {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // One connection, from its acceptance until both sides have closed it.
  struct Connection {
    Socket duplicate;  // of the descriptor that gRPC has
    Peer peer;
    Time idle_since;             // acceptance or end of the last call
    int32_t calls = 0;           // that have not ended
    bool open = true;            // false once the server has closed it
    int64_t bytes_reported = 0;  // by with_traffic()
  };
  using Handle = std::shared_ptr<Connection>;

  explicit Connections(const ConnectionLimits& limits) : limits_(limits) {}
  const ConnectionLimits& limits() const { return limits_; }

  // Makes room for a connection from `host`: where there are too many, the one is closed that has
  // neither had a call nor sent anything for the longest time. The reason if there is none without
  // a call.
  std::optional<RefusalReason> make_room(const std::string& host, Time now);
  // Registers an accepted connection. `duplicate` is known by its descriptor until remove().
  void add(Socket duplicate, Peer peer, Time now);
  // Forgets a connection that has ended, and closes the duplicate.
  void remove(int duplicate);
  // Counts a connection that was closed at once.
  void refuse(RefusalReason reason);

  // A call has come on the connection with this name. Null if the connection is not known or is
  // being closed. Each handle is given back to end_call() once.
  Handle begin_call(std::string_view name);
  void end_call(const Handle& connection, Time now);

  // A TCP connection on which data has come.
  struct Traffic {
    int duplicate = -1;
    std::string name{};
    int64_t bytes = 0;      // that have come in all
    int64_t new_bytes = 0;  // of these, since it was last reported
  };
  // The connections that have received at least so many bytes since they were last reported here.
  std::vector<Traffic> with_traffic(int64_t bytes);
  // Cuts a connection off, with all that it has sent and gRPC has not read. Does nothing if it has
  // ended since with_traffic().
  void abort(const Traffic& connection, ClosureReason reason);

  ConnectionCounts counts() const;

 private:
  using Idle = std::set<std::pair<Time, int>>;  // {idle_since, duplicate}
  struct Host {
    int32_t connections = 0;
    Idle idle{};
  };

  void enter_idle(const Connection& connection);
  void leave_idle(const Connection& connection);
  // Closes the connection of `idle` that has been idle for longest; false if there is none.
  bool close_longest_idle(const Idle& idle, Time now);
  void close(Connection& connection, ClosureReason reason);
  void forget(const Connection& connection);

  const ConnectionLimits limits_;
  mutable std::mutex mutex_;  // guards what follows, and all connections
  std::unordered_map<int, Handle> connections_;
  std::map<std::string, Handle, std::less<>> by_name_;
  std::map<std::string, Host> hosts_;
  Idle idle_;  // of all hosts
  ConnectionCounts counts_;
};

}  // namespace kascade::net

#endif  // KASCADE_SERVER_NET_CONNECTIONS_H_
