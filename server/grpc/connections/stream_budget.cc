#include "server/grpc/connections/stream_budget.h"

#include <algorithm>

namespace kascade::server {
namespace {

constexpr int64_t kMostMessages = 4;               // on their way at once, for the bytes
constexpr int64_t kOtherBytes = int64_t{4} << 20;  // of frames without messages
// What was allocated since an older look has other causes, if only so few bytes came.
constexpr auto kOldLook = std::chrono::seconds(1);
constexpr int64_t kFewBytes = int64_t{256} << 10;

}  // namespace

std::optional<net::ClosureReason> StreamBudget::observe(const SocketCounts& counts, Time now) {
  const std::chrono::duration<double> passed = now - last_time_.value_or(now);
  failed_ =
      std::max(0.0, failed_ - passed.count() * static_cast<double>(limits_.forgiven_per_second));
  failed_ += static_cast<double>(counts.failed - last_.failed);
  const bool progress = counts.started != last_.started || counts.succeeded != last_.succeeded ||
                        counts.failed != last_.failed || counts.messages != last_.messages;
  if (progress) bytes_at_progress_ = counts.bytes;
  const int64_t bytes = counts.bytes - bytes_at_progress_;
  const bool is_old = passed > kOldLook && bytes <= kFewBytes;
  if (progress || !last_time_ || is_old) allocated_at_progress_ = counts.allocated;
  last_ = counts;
  last_time_ = now;

  const int64_t open = counts.started - counts.succeeded - counts.failed;
  if (static_cast<double>(open) + failed_ > static_cast<double>(limits_.streams)) {
    return net::ClosureReason::kStreams;
  }
  const int64_t messages = std::clamp<int64_t>(open, 1, kMostMessages);
  if (bytes > messages * limits_.message_bytes + kOtherBytes) return net::ClosureReason::kData;
  if (bytes > kFewBytes && counts.allocated - allocated_at_progress_ >
                               limits_.allocated_bytes + limits_.allocated_per_byte * bytes) {
    return net::ClosureReason::kData;
  }
  return std::nullopt;
}

}  // namespace kascade::server
