#include "server/core/memory_budget.h"

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"

namespace kascade::core {
namespace {

absl::Status too_large(int64_t bytes, int64_t limit) {
  return refuse(absl::StatusCode::kFailedPrecondition,
                absl::StrCat("the request needs ", bytes, " bytes of memory at least; at most ",
                             limit, " can be had (--request-memory)"),
                {.reason = kMemoryBudgetReason,
                 .subject = "request_memory_bytes",
                 .remedy = "send less text at once, or start the server with more --request-memory",
                 .details = {{"needed", absl::StrCat(bytes)}, {"limit", absl::StrCat(limit)}}});
}

absl::Status exhausted(int64_t bytes, int64_t used, int64_t limit) {
  return refuse(absl::StatusCode::kResourceExhausted,
                absl::StrCat("other requests hold ", used, " of ", limit,
                             " bytes of memory (--request-memory), and this one needs ", bytes,
                             "; try again later"),
                {.reason = kMemoryBudgetReason,
                 .retry_after = absl::Seconds(1),
                 .details = {{"needed", absl::StrCat(bytes)},
                             {"limit", absl::StrCat(limit)},
                             {"used", absl::StrCat(used)}}});
}

}  // namespace

absl::Status no_memory_left() {
  return refuse(absl::StatusCode::kResourceExhausted,
                "the operating system has no memory for the request; try again later",
                {.reason = kMemoryBudgetReason, .retry_after = absl::Seconds(1)});
}

MemoryBudget::MemoryBudget(int64_t limit, metrics::ServerMetrics& metrics)
    : limit_(limit), metrics_(metrics) {
  metrics_.request_memory_limit.Set(static_cast<double>(limit));
}

absl::Status MemoryBudget::Reservation::resize(int64_t bytes) {
  if (bytes <= bytes_) {
    shrink_to(bytes);
    return absl::OkStatus();
  }
  const int64_t all = budget_.limit_;
  const int64_t limit = bytes <= kSmallReservationBytes ? all : all - all / 8;
  if (bytes > limit) return too_large(bytes, limit);
  if (!budget_.take(bytes - bytes_, limit)) {
    return exhausted(bytes, budget_.used() - bytes_, limit);
  }
  bytes_ = bytes;
  return absl::OkStatus();
}

void MemoryBudget::Reservation::shrink_to(int64_t bytes) {
  budget_.give_back(bytes_ - bytes);
  bytes_ = bytes;
}

bool MemoryBudget::take(int64_t bytes, int64_t limit) {
  int64_t used = used_;
  do {
    if (used + bytes > limit) return false;
  } while (!used_.compare_exchange_weak(used, used + bytes));
  metrics_.request_memory.Increment(static_cast<double>(bytes));
  return true;
}

void MemoryBudget::give_back(int64_t bytes) {
  used_ -= bytes;
  returned_ += bytes;
  metrics_.request_memory.Decrement(static_cast<double>(bytes));
}

}  // namespace kascade::core
