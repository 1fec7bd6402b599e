// Cuts off connections that flood the server with streams or data
// (docs/decisions/0076-our-own-accept-loop.md).
#ifndef KASCADE_SERVER_GRPC_CONNECTIONS_FLOOD_GUARD_H_
#define KASCADE_SERVER_GRPC_CONNECTIONS_FLOOD_GUARD_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>

#include "server/grpc/connections/socket_counts.h"
#include "server/grpc/connections/stream_budget.h"
#include "server/net/connections.h"

namespace kascade::server {

class FloodGuard {
 public:
  // Looks at `connections`, which must outlive the guard, from a thread: ten times a second, and
  // fifty times while one of them sends much.
  // `accounted_bytes` tells the memory that requests account for; thread-safe.
  FloodGuard(net::Connections& connections, const StreamLimits& limits,
             std::function<int64_t()> accounted_bytes);
  FloodGuard(const FloodGuard&) = delete;
  FloodGuard& operator=(const FloodGuard&) = delete;
  ~FloodGuard();

 private:
  struct Watched {
    int64_t socket = 0;
    StreamBudget budget;
  };

  void run();
  // Cuts off what floods. Whether a connection has sent much since the last time.
  bool look();
  // The budget of the connection that has this name now, a new one for a new connection.
  StreamBudget& budget_of(const std::string& name, int64_t socket);

  net::Connections& connections_;
  const StreamLimits limits_;
  const std::function<int64_t()> accounted_bytes_;
  SocketCounter sockets_;                             // used by the thread only, as is `watched_`
  std::unordered_map<std::string, Watched> watched_;  // by name
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_CONNECTIONS_FLOOD_GUARD_H_
