// Threads for the long part of large requests, their tokenization, and for what waits for a disk,
// so that the few threads of a front end stay free for health checks, cancellation and small calls.
// Shorter work goes first, but what waits gains priority, and one thread takes no long work at all:
// many large requests do not keep others waiting.
#ifndef KASCADE_SERVER_CORE_WORK_QUEUE_H_
#define KASCADE_SERVER_CORE_WORK_QUEUE_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/base/clock.h"

namespace kascade::core {

class WorkQueue {
 public:
  // The last of several threads takes work of at most kMaxMediumBytes only. `now` tells the time.
  explicit WorkQueue(int threads, std::function<absl::Time()> now = steady_now);
  ~WorkQueue();  // runs what is queued

  // Runs `work` on the calling thread if `bytes` is small, else on a thread of the queue.
  void run(size_t bytes, std::function<void()> work);
  // Runs `work`, which may wait for a disk, on a thread of the queue.
  void post(std::function<void()> work) { enqueue(0, std::move(work)); }

 private:
  struct Item {
    size_t bytes = 0;
    std::function<void()> work;
  };

  void enqueue(size_t bytes, std::function<void()> work);
  void loop(size_t max_bytes);
  // The first item of at most `max_bytes`, or the end.
  std::multimap<int64_t, Item>::iterator first(size_t max_bytes);

  const std::function<absl::Time()> now_;
  std::mutex mutex_;
  std::condition_variable wake_;
  // By bytes and arrival: work that came a second later is as urgent as work that is 4 MiB longer.
  std::multimap<int64_t, Item> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_WORK_QUEUE_H_
