#include "engine/base/clock.h"

#include <chrono>

#include "absl/time/clock.h"

namespace kascade {

absl::Time steady_now() {
  using Clock = std::chrono::steady_clock;
  struct Origin {
    absl::Time time = absl::Now();
    Clock::time_point steady = Clock::now();
  };
  static const Origin origin;
  return origin.time + absl::FromChrono(Clock::now() - origin.steady);
}

}  // namespace kascade
