// What every call works with, and the account of calls that have not ended.
#ifndef KASCADE_SERVER_HOST_H_
#define KASCADE_SERVER_HOST_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "grpcpp/support/status.h"
#include "server/metrics.h"
#include "server/schedule_store.h"
#include "server/work_queue.h"

namespace kascade::server {

class RequestTracker {
 public:
  void enter();
  void leave();
  // Whether none is left.
  bool wait_until(absl::Time deadline);

 private:
  std::mutex mutex_;
  std::condition_variable none_left_;
  int64_t count_ = 0;
};

struct ServerLimits {
  int64_t max_message_bytes = 0;
  int32_t max_sequences = 0;
  int32_t max_queue = 0;
  int32_t max_batch_tokens = 0;
};

struct ServerContext {
  Engine& engine;
  ScheduleStore& schedules;
  Metrics& metrics;
  WorkQueue& work;
  RequestTracker& requests;
  const ServerLimits limits;
  std::atomic<bool> draining = false;
};

// Accounts for one call from its arrival to finish().
class RpcRecord {
 public:
  RpcRecord(ServerContext& host, std::string rpc);
  RpcRecord(const RpcRecord&) = delete;
  RpcRecord& operator=(const RpcRecord&) = delete;
  ~RpcRecord();

  // Counts and logs the end; gives what the client gets.
  grpc::Status finish(const absl::Status& status);
  absl::Time arrival() const { return arrival_; }
  absl::Duration elapsed() const;

 private:
  ServerContext& host_;
  const std::string rpc_;
  const absl::Time arrival_;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_HOST_H_
