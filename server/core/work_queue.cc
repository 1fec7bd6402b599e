#include "server/core/work_queue.h"

#include <utility>

#include "engine/base/refusal.h"
#include "server/core/limits.h"

namespace kascade::core {

WorkQueue::WorkQueue(int threads) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { loop(); });
}

WorkQueue::~WorkQueue() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

absl::Status WorkQueue::run(size_t bytes, std::function<void()> work) {
  if (bytes <= kMaxInlineBytes) {
    work();
    return absl::OkStatus();
  }
  {
    const std::lock_guard lock(mutex_);
    if (queued_bytes_ + bytes > kMaxQueuedBytes) {
      return refuse(absl::StatusCode::kResourceExhausted,
                    "too many large requests at once; try again later",
                    {.reason = reason::kQueueFull, .retry_after = absl::Seconds(1)});
    }
    queued_bytes_ += bytes;
    queue_.push_back({bytes, std::move(work)});
  }
  wake_.notify_one();
  return absl::OkStatus();
}

void WorkQueue::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    Item item = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    item.work();
    item.work = nullptr;  // lets go of the call outside the lock
    lock.lock();
    queued_bytes_ -= item.bytes;
  }
}

}  // namespace kascade::core
