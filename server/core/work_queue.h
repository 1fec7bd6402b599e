// Threads for the long part of large requests, their tokenization, so that the few threads of a
// front end stay free for health checks, cancellation and small calls.
#ifndef KASCADE_SERVER_CORE_WORK_QUEUE_H_
#define KASCADE_SERVER_CORE_WORK_QUEUE_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"

namespace kascade::core {

class WorkQueue {
 public:
  explicit WorkQueue(int threads);
  ~WorkQueue();  // runs what is queued

  // Runs `work` on the calling thread if `bytes` is small, else on a thread of the queue.
  // RESOURCE_EXHAUSTED, and `work` does not run: the requests in the queue are too large together.
  absl::Status run(size_t bytes, std::function<void()> work);

 private:
  struct Item {
    size_t bytes = 0;
    std::function<void()> work;
  };

  void loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Item> queue_;
  size_t queued_bytes_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_WORK_QUEUE_H_
