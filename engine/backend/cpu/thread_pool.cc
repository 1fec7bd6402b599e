#include "engine/backend/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/backend/cpu/affinity.h"

namespace kascade::cpu {
namespace {

using std::chrono::microseconds;
using std::chrono::steady_clock;

// How long a worker polls for the next call before it sleeps. The serial parts of a step are
// shorter than this, and waking a thread takes tens of microseconds.
constexpr microseconds kBetweenCalls{100};
// How long the caller polls for the end of the last tasks. It must not poll longer: if another
// process took a worker's core, the operating system can move the worker only to a core that
// becomes idle, such as the caller's.
constexpr microseconds kForLastTasks{20};

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Returns when the value differs from `old`; polls for `patience`, then sleeps.
template <typename T>
void wait_for_change(const std::atomic<T>& value, T old, microseconds patience) {
  constexpr int kLooks = 32;  // polls between two readings of the clock
  const auto end = steady_clock::now() + patience;
  do {
    for (int look = 0; look < kLooks; ++look) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause_core();
    }
  } while (steady_clock::now() < end);
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int32_t threads, std::span<const int32_t> cpus)
    : ranges_(static_cast<size_t>(std::max(threads, 1))) {
  for (int32_t worker = 1; worker < threads; ++worker) {
    workers_.emplace_back([this, worker] { serve(worker); });
    if (cpus.empty()) continue;
    absl::Status bound =
        bind_thread(workers_.back().native_handle(), cpus[static_cast<size_t>(worker)]);
    if (!bound.ok()) refused_.push_back(std::move(bound));
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  call_.fetch_add(1);
  call_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::take_tasks(int32_t worker) {
  const size_t count = ranges_.size();
  for (size_t i = 0; i < count; ++i) {
    Range& range = ranges_[(static_cast<size_t>(worker) + i) % count];
    if (range.next.load() >= range.end) continue;
    for (int64_t task = range.next++; task < range.end; task = range.next++) (*work_)(task, worker);
  }
}

// A worker increments inside_ before it reads open_, and run() clears open_ before it reads
// inside_. Both use sequentially consistent operations, so a worker that comes late either finds
// open_ false or is waited for by run().
void ThreadPool::serve(int32_t worker) {
  for (uint32_t seen = 0; !stop_.load();) {
    wait_for_change(call_, seen, kBetweenCalls);
    seen = call_.load();
    inside_.fetch_add(1);
    if (open_.load()) take_tasks(worker);
    if (inside_.fetch_sub(1) == 1) inside_.notify_one();
  }
}

void ThreadPool::run(int64_t tasks, Work work) {
  if (tasks <= 0) return;
  if (tasks == 1 || workers_.empty()) {
    for (int64_t task = 0; task < tasks; ++task) work(task, 0);
    return;
  }
  work_ = &work;
  const int64_t shares = threads();
  for (int64_t i = 0; i < shares; ++i) {
    Range& range = ranges_[static_cast<size_t>(i)];
    range.next.store(tasks * i / shares);
    range.end = tasks * (i + 1) / shares;
  }
  open_.store(true);
  call_.fetch_add(1);
  call_.notify_all();
  take_tasks(0);
  open_.store(false);
  for (int32_t inside = inside_.load(); inside != 0; inside = inside_.load()) {
    wait_for_change(inside_, inside, kForLastTasks);
  }
}

}  // namespace kascade::cpu
