// The time for deadlines, waits and durations. What is shown to people as a date takes absl::Now().
#ifndef KASCADE_ENGINE_BASE_CLOCK_H_
#define KASCADE_ENGINE_BASE_CLOCK_H_

#include "absl/time/time.h"

namespace kascade {

// Runs as evenly as the monotonic clock of the operating system, so that setting the machine's
// clock ends no request and stalls none. It is absl::Now() when it is asked first, and differs from
// that later by as much as the machine's clock was set. Thread-safe.
absl::Time steady_now();

}  // namespace kascade

#endif  // KASCADE_ENGINE_BASE_CLOCK_H_
