#include "server/host.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/errors.h"
#include "spdlog/spdlog.h"

namespace kascade::server {

void RequestTracker::enter() {
  const std::lock_guard lock(mutex_);
  ++count_;
}

void RequestTracker::leave() {
  const std::lock_guard lock(mutex_);
  if (--count_ == 0) none_left_.notify_all();
}

bool RequestTracker::wait_until(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  return none_left_.wait_until(lock, absl::ToChronoTime(deadline), [&] { return count_ == 0; });
}

RpcRecord::RpcRecord(ServerContext& host, std::string rpc)
    : host_(host), rpc_(std::move(rpc)), arrival_(absl::Now()) {
  host_.requests.enter();
  host_.metrics.rpc_in_flight.Increment();
}

RpcRecord::~RpcRecord() {
  host_.metrics.rpc_in_flight.Decrement();
  host_.requests.leave();
}

absl::Duration RpcRecord::elapsed() const { return absl::Now() - arrival_; }

grpc::Status RpcRecord::finish(const absl::Status& status) {
  absl::Status told = status;
  // What the engine ends because the server goes down, the client may send elsewhere.
  if (status.code() == absl::StatusCode::kCancelled && host_.draining) {
    told = absl::UnavailableError("the server is going down");
  }
  if (told.code() == absl::StatusCode::kResourceExhausted) {
    const EngineStats stats = host_.engine.stats();
    told = with_reason(told, reason::kQueueFull,
                       {{"waiting", absl::StrCat(stats.waiting)},
                        {"max_queue", absl::StrCat(host_.limits.max_queue)}});
  }
  const grpc::Status result = to_grpc(told);
  const double seconds = absl::ToDoubleSeconds(elapsed());
  host_.metrics.finish_rpc(rpc_, result, seconds);
  if (result.ok()) {
    spdlog::debug("{} OK, {:.3f} s", rpc_, seconds);
  } else if (result.error_code() == grpc::StatusCode::INTERNAL) {
    spdlog::error("{} failed after {:.3f} s: {}", rpc_, seconds, result.error_message());
  } else {
    spdlog::info("{} ended with code {} after {:.3f} s: {}", rpc_,
                 static_cast<int>(result.error_code()), seconds, result.error_message());
  }
  return result;
}

}  // namespace kascade::server
