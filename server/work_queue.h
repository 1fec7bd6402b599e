// Threads for the long part of large requests, their tokenization, so that gRPC's own few threads
// stay free for health checks, cancellation and small calls.
#ifndef KASCADE_SERVER_WORK_QUEUE_H_
#define KASCADE_SERVER_WORK_QUEUE_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace kascade::server {

class WorkQueue {
 public:
  explicit WorkQueue(int threads);
  ~WorkQueue();  // runs what is queued

  // Runs `work` here if `bytes` is small, else on a thread of the queue. False, and nothing runs,
  // if the requests in the queue are too large together.
  bool run(size_t bytes, std::function<void()> work);

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

}  // namespace kascade::server

#endif  // KASCADE_SERVER_WORK_QUEUE_H_
