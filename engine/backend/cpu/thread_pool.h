// The threads of the CPU backend. A call hands out numbered tasks to whichever thread is free, so
// that a thread whose core another process takes delays only the task that it works on.
#ifndef KASCADE_ENGINE_BACKEND_CPU_THREAD_POOL_H_
#define KASCADE_ENGINE_BACKEND_CPU_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace kascade::cpu {

class ThreadPool {
 public:
  using Work = absl::FunctionRef<void(int64_t task, int32_t worker)>;

  // `threads` ≥ 1 includes the thread that calls run(), which is worker 0. If `cpus` is not empty
  // it has one entry per thread, and worker i ≥ 1 is bound to cpus[i]; the caller binds its own
  // thread.
  explicit ThreadPool(int32_t threads, std::span<const int32_t> cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // One error for each worker that could not be bound.
  std::span<const absl::Status> refused() const { return refused_; }
  int32_t threads() const { return static_cast<int32_t>(workers_.size()) + 1; }

  // Calls work(task, worker) once for each task in [0, tasks) and returns when all are done. Each
  // thread works through a contiguous range of tasks in order and then takes tasks that other
  // threads have left, so consecutive tasks should work on neighbouring memory. `worker` is in [0,
  // threads()), where 0 is the caller; no two tasks run at the same time with the same worker. Only
  // one call at a time; tasks may not call run().
  void run(int64_t tasks, Work work);

 private:
  // The remaining tasks of one thread, which other threads may take as well. Each range has a cache
  // line of its own.
  struct alignas(64) Range {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void serve(int32_t worker);
  void take_tasks(int32_t worker);

  // work_ and ranges_ are written only while inside_ is 0.
  const Work* work_ = nullptr;
  std::vector<Range> ranges_;       // [threads]
  std::atomic<bool> open_{false};   // whether workers may take tasks
  std::atomic<int32_t> inside_{0};  // workers that may be working on a task
  std::atomic<uint32_t> call_{0};   // counts calls of run(); its change wakes the workers
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_{};
  std::vector<absl::Status> refused_{};
};

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_THREAD_POOL_H_
