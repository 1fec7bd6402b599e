#include "server/core/reader_monitor.h"

#include <malloc.h>

#include <algorithm>
#include <vector>

#include "engine/base/clock.h"

namespace kascade::core {
namespace {

constexpr absl::Duration kLongestPause = absl::Seconds(1);
// Trimming takes milliseconds, so it waits until it is worth it.
constexpr int64_t kLeastFreedBytes = int64_t{16} << 20;

}  // namespace

ReaderMonitor::ReaderMonitor(absl::Duration limit, const MemoryBudget& budget)
    : limit_(limit), budget_(budget), thread_([this] { loop(); }) {}

ReaderMonitor::~ReaderMonitor() {
  {
    const std::lock_guard lock(stop_mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void ReaderMonitor::enter(MonitoredCall& call) {
  const std::lock_guard lock(calls_mutex_);
  calls_.insert(&call);
}

void ReaderMonitor::leave(MonitoredCall& call) {
  const std::lock_guard lock(calls_mutex_);
  calls_.erase(&call);
}

void ReaderMonitor::loop() {
  const auto pause = absl::ToChronoMilliseconds(std::min(kLongestPause, limit_ / 4));
  std::unique_lock lock(stop_mutex_);
  while (!wake_.wait_for(lock, pause, [this] { return stopping_; })) {
    lock.unlock();
    end_stalled_calls();
    return_freed_memory();
    lock.lock();
  }
}

void ReaderMonitor::end_stalled_calls() {
  const absl::Time earliest = steady_now() - limit_;
  const std::lock_guard lock(calls_mutex_);
  const std::vector<MonitoredCall*> calls(calls_.begin(), calls_.end());
  for (MonitoredCall* call : calls) {
    if (calls_.contains(call)) call->end_if_stalled(earliest);
  }
}

// The allocator keeps what is freed below memory that is still used. Only large requests make that
// worth returning.
void ReaderMonitor::return_freed_memory() {
  const int64_t returned = budget_.returned();
  if (returned - trimmed_at_ < kLeastFreedBytes) return;
  trimmed_at_ = returned;
  malloc_trim(0);
}

}  // namespace kascade::core
