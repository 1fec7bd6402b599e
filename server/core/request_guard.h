// Ends the preparation of a request that is not worth going on with: its client is gone, its
// deadline has passed, or there is no memory for it.
#ifndef KASCADE_SERVER_CORE_REQUEST_GUARD_H_
#define KASCADE_SERVER_CORE_REQUEST_GUARD_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/core/memory_budget.h"

namespace kascade::core {

// Belongs to the thread that prepares the request, except for cancel(). What it holds of the budget
// is returned when it is destroyed.
class RequestGuard final : public EncodingWatch {
 public:
  // `budget` must outlive the guard.
  explicit RequestGuard(MemoryBudget& budget) : reservation_(budget) {}

  void set_deadline(absl::Time deadline) { deadline_ = deadline; }
  // The client is gone: from now on all the functions below answer CANCELLED. Thread-safe.
  void cancel() { cancelled_ = true; }

  // The request holds so many bytes more, or less if negative, beside what an encoding takes while
  // it runs. CANCELLED, DEADLINE_EXCEEDED, or the errors of MemoryBudget::Reservation::resize().
  absl::Status hold_more(int64_t bytes);
  // Asked by an encoding that holds `bytes`, until the next hold_more().
  absl::Status proceed(size_t bytes) override;

  int64_t held_bytes() const { return held_; }

 private:
  absl::Status check() const;

  MemoryBudget::Reservation reservation_;
  int64_t held_ = 0;  // without the encoding
  absl::Time deadline_ = absl::InfiniteFuture();
  std::atomic<bool> cancelled_ = false;
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_REQUEST_GUARD_H_
