// The threads of the CPU backend. A call hands out numbered tasks to whoever is free, so that a
// thread that the system takes away from its core delays only the task it holds.
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

  // threads ≥ 1, of which the caller of run() is one. With `cpus`, one for each thread, worker i is
  // bound to cpus[i]; worker 0, the caller's thread, is the caller's business.
  explicit ThreadPool(int32_t threads, std::span<const int32_t> cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Why workers are not bound, one each.
  std::span<const absl::Status> refused() const { return refused_; }
  int32_t threads() const { return static_cast<int32_t>(workers_.size()) + 1; }

  // Calls work(task, worker) once for each task in [0, tasks) and returns when all are done. Each
  // thread has a range of tasks, which it takes in order, then those that others have left: tasks
  // in a row should work on what lies in a row. worker is in [0, threads()), 0 being the caller; no
  // two tasks run at once with the same one. One call at a time; tasks may not call run().
  void run(int64_t tasks, Work work);

 private:
  // What is left of one thread's tasks; others take from it as well. On a cache line of its own.
  struct alignas(64) Range {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void serve(int32_t worker);
  void take_tasks(int32_t worker);

  const Work* work_ = nullptr;      // as ranges_, written while nobody is inside
  std::vector<Range> ranges_;       // of each thread
  std::atomic<bool> open_{false};   // tasks may be taken
  std::atomic<int32_t> inside_{0};  // workers that may be at a task
  std::atomic<uint32_t> call_{0};   // counts calls of run(), and wakes the workers
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_{};
  std::vector<absl::Status> refused_{};
};

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_THREAD_POOL_H_
