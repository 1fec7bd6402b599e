// Finds out that the engine stands still although it has work.
#ifndef KASCADE_SERVER_CORE_STALL_WATCH_H_
#define KASCADE_SERVER_CORE_STALL_WATCH_H_

#include <chrono>
#include <cstdint>

#include "engine/engine.h"

namespace kascade::core {

// Not thread-safe: one thread observes.
class StallWatch {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // The engine is stalled once it has computed no layer and ended no step for `patience` while it
  // had work. Zero: never.
  explicit StallWatch(std::chrono::seconds patience) : patience_(patience) {}

  // To be called about every second with the statistics of `now` and the layers that have been
  // computed so far (Engine::layers_computed). The same as stalled() afterwards.
  // Where the calls pause, as in a process that was stopped, the engine had no chance to work, and
  // its time begins anew.
  bool observe(const EngineStats& stats, int64_t layers, Time now);
  bool stalled() const { return stalled_; }
  // How long the engine had made no progress at the last call.
  std::chrono::seconds standstill() const {
    return std::chrono::duration_cast<std::chrono::seconds>(last_call_ - last_progress_);
  }

 private:
  std::chrono::seconds patience_;
  int64_t progress_ = -1;
  Time last_progress_{};
  Time last_call_{};
  bool stalled_ = false;
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_STALL_WATCH_H_
