#include "server/core/request_tracker.h"

namespace kascade::core {

void RequestTracker::enter() {
  const std::lock_guard lock(mutex_);
  ++count_;
}

void RequestTracker::leave() {
  const std::lock_guard lock(mutex_);
  if (--count_ == 0) none_left_.notify_all();
}

bool RequestTracker::wait_for(absl::Duration time) {
  std::unique_lock lock(mutex_);
  return none_left_.wait_for(lock, absl::ToChronoNanoseconds(time), [&] { return count_ == 0; });
}

}  // namespace kascade::core
