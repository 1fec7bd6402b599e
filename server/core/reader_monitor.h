// Ends calls whose client does not read what it is sent: such a call would hold its memory, and
// keys and values in the cache, for as long as the client likes.
#ifndef KASCADE_SERVER_CORE_READER_MONITOR_H_
#define KASCADE_SERVER_CORE_READER_MONITOR_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <set>
#include <thread>

#include "absl/time/time.h"
#include "server/core/memory_budget.h"

namespace kascade::core {

class MonitoredCall {
 public:
  virtual ~MonitoredCall() = default;
  // Ends the call if something that began to be written before `earliest` is not written yet.
  virtual void end_if_stalled(absl::Time earliest) = 0;
};

// Has a thread that looks at all calls about every quarter of the limit, and at least every second.
// The same thread gives memory that large requests have freed back to the system.
class ReaderMonitor {
 public:
  // `limit`: how long a write may take. `budget` must outlive the monitor.
  ReaderMonitor(absl::Duration limit, const MemoryBudget& budget);
  ~ReaderMonitor();

  // The call must leave before it is destroyed. leave() waits for the look that is being taken,
  // unless it is called from within.
  void enter(MonitoredCall& call);
  void leave(MonitoredCall& call);

 private:
  void loop();
  void end_stalled_calls();
  void return_freed_memory();

  const absl::Duration limit_;
  const MemoryBudget& budget_;
  int64_t trimmed_at_ = 0;  // what the budget had got back at the last trim; of the thread

  // Recursive: ending a call may make it leave on the same thread.
  std::recursive_mutex calls_mutex_;
  std::set<MonitoredCall*> calls_;

  std::mutex stop_mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_READER_MONITOR_H_
