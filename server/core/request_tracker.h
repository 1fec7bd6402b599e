// Counts the requests that have not ended, so that a server that goes down can wait for them.
#ifndef KASCADE_SERVER_CORE_REQUEST_TRACKER_H_
#define KASCADE_SERVER_CORE_REQUEST_TRACKER_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "absl/time/time.h"

namespace kascade::core {

// Thread-safe.
class RequestTracker {
 public:
  void enter();
  void leave();
  // Waits at most so long until no request is left; whether none is.
  bool wait_for(absl::Duration time);

 private:
  std::mutex mutex_;
  std::condition_variable none_left_;
  int64_t count_ = 0;
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_REQUEST_TRACKER_H_
