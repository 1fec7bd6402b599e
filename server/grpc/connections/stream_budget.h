// How many streams and how much data a connection may have without getting anything done.
#ifndef KASCADE_SERVER_GRPC_CONNECTIONS_STREAM_BUDGET_H_
#define KASCADE_SERVER_GRPC_CONNECTIONS_STREAM_BUDGET_H_

#include <chrono>
#include <cstdint>
#include <optional>

#include "server/net/connections.h"

namespace kascade::server {

// What has happened on a connection since it began. The counts only grow, but for `allocated`.
struct SocketCounts {
  int64_t started = 0;    // streams that the client has opened
  int64_t succeeded = 0;  // of these, those that got their status
  int64_t failed = 0;     // of these, those that ended without, as when the client resets them
  int64_t messages = 0;   // that have arrived in full
  int64_t bytes = 0;      // that have arrived
  // That the process has allocated and no request accounts for, at this moment.
  int64_t allocated = 0;
};

struct StreamLimits {
  // Open streams, and failed ones that are not forgiven yet, together.
  int64_t streams = 1024;
  // Failed streams. Many calls of a proxy fail in a second when their deadlines pass.
  int64_t forgiven_per_second = 1000;
  // Bytes that may come while no stream begins or ends and no message becomes complete: for each
  // open stream, at most four.
  int64_t message_bytes = int64_t{64} << 20;
  // The memory that may be allocated meanwhile, beside so many times the bytes that came: messages
  // take little more than their bytes, header fields up to 32 times theirs.
  int64_t allocated_bytes = int64_t{64} << 20;
  int64_t allocated_per_byte = 4;
};

class StreamBudget {
 public:
  using Time = net::Connections::Time;

  explicit StreamBudget(const StreamLimits& limits) : limits_(limits) {}

  // Why the connection is to be closed, or nothing.
  std::optional<net::ClosureReason> observe(const SocketCounts& counts, Time now);

 private:
  const StreamLimits limits_;
  std::optional<Time> last_time_;
  SocketCounts last_{};
  double failed_ = 0;  // not forgiven yet
  int64_t bytes_at_progress_ = 0;
  int64_t allocated_at_progress_ = 0;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_CONNECTIONS_STREAM_BUDGET_H_
