#include "server/core/request_guard.h"

#include "engine/base/clock.h"

namespace kascade::core {

absl::Status RequestGuard::hold_more(int64_t bytes) {
  if (absl::Status status = check(); !status.ok()) return status;
  if (absl::Status status = reservation_.resize(held_ + bytes); !status.ok()) return status;
  held_ += bytes;
  return absl::OkStatus();
}

absl::Status RequestGuard::proceed(size_t bytes) {
  if (absl::Status status = check(); !status.ok()) return status;
  return reservation_.resize(held_ + static_cast<int64_t>(bytes));
}

absl::Status RequestGuard::check() const {
  if (cancelled_) return absl::CancelledError("the client is gone");
  if (steady_now() < deadline_) return absl::OkStatus();
  return absl::DeadlineExceededError("the deadline passed while the request was prepared");
}

}  // namespace kascade::core
