#include "server/core/stall_watch.h"

namespace kascade::core {
namespace {

constexpr auto kLongestPause = std::chrono::seconds(10);  // between two calls

}  // namespace

bool StallWatch::observe(const EngineStats& stats, int64_t layers, Time now) {
  const int64_t progress = layers + stats.steps;
  const bool has_work = stats.running > 0 || stats.waiting > 0;
  const bool paused = now - last_call_ > kLongestPause;
  const bool moved = progress != progress_ || !has_work;
  if (moved || (paused && !stalled_)) last_progress_ = now;
  progress_ = progress;
  last_call_ = now;
  stalled_ = patience_.count() > 0 && standstill() >= patience_;
  return stalled_;
}

}  // namespace kascade::core
