// What every request of every front end works with.
#ifndef KASCADE_SERVER_CORE_SERVER_CONTEXT_H_
#define KASCADE_SERVER_CORE_SERVER_CONTEXT_H_

#include <atomic>
#include <cstdint>

#include "engine/engine.h"
#include "server/core/memory_budget.h"
#include "server/core/reader_monitor.h"
#include "server/core/request_tracker.h"
#include "server/core/schedules.h"
#include "server/core/shadow.h"
#include "server/core/work_queue.h"
#include "server/metrics/metrics.h"

namespace kascade::security {
class AccessTokens;
}  // namespace kascade::security

namespace kascade::core {

// For clients to know, beside the limits of the engine's queue (Engine::queue_limits); the engine
// and the front end enforce them.
struct ServerLimits {
  int64_t max_message_bytes = 0;
  int64_t request_memory_bytes = 0;
  int32_t max_sequences = 0;
  int32_t max_batch_tokens = 0;
};

// All references outlive the context.
struct ServerContext {
  Engine& engine;
  Schedules& schedules;
  metrics::ServerMetrics& metrics;
  WorkQueue& work;
  RequestTracker& requests;
  MemoryBudget& memory;
  ReaderMonitor& readers;
  const ServerLimits limits;
  std::atomic<bool> draining = false;
  const security::AccessTokens* access_tokens = nullptr;  // null: clients need none
  Shadow* shadow = nullptr;                               // null: nothing is compared
  bool load_reports = true;                               // at the end of each call
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_SERVER_CONTEXT_H_
