#include "server/core/work_queue.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "server/core/limits.h"

namespace kascade::core {
namespace {

// About what a thread tokenizes in a second.
constexpr int64_t kBytesPerSecond = int64_t{4} << 20;

int64_t place_of(size_t bytes, absl::Time arrival) {
  return static_cast<int64_t>(bytes) + absl::ToUnixMillis(arrival) * kBytesPerSecond / 1000;
}

}  // namespace

WorkQueue::WorkQueue(int threads, std::function<absl::Time()> now) : now_(std::move(now)) {
  for (int i = 0; i < threads; ++i) {
    const bool takes_all = i == 0 || i + 1 < threads;
    const size_t max_bytes = takes_all ? std::numeric_limits<size_t>::max() : kMaxMediumBytes;
    threads_.emplace_back([this, max_bytes] { loop(max_bytes); });
  }
}

WorkQueue::~WorkQueue() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkQueue::run(size_t bytes, std::function<void()> work) {
  if (bytes <= kMaxInlineBytes) return work();
  enqueue(bytes, std::move(work));
}

void WorkQueue::enqueue(size_t bytes, std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    queue_.emplace(place_of(bytes, now_()), Item{bytes, std::move(work)});
  }
  wake_.notify_all();  // not every thread may take it
}

std::multimap<int64_t, WorkQueue::Item>::iterator WorkQueue::first(size_t max_bytes) {
  return std::ranges::find_if(
      queue_, [max_bytes](const auto& entry) { return entry.second.bytes <= max_bytes; });
}

void WorkQueue::loop(size_t max_bytes) {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stopping_ || first(max_bytes) != queue_.end(); });
    const auto next = first(max_bytes);
    if (next == queue_.end()) return;
    std::function<void()> work = std::move(next->second.work);
    queue_.erase(next);
    lock.unlock();
    work();
    work = nullptr;  // lets go of the call outside the lock
    lock.lock();
  }
}

}  // namespace kascade::core
