// Tests the clock for deadlines. That it does not follow the machine's clock is tested with a
// server whose clock jumps (tests/end_to_end/faults_under_load_test.py).
#include "engine/base/clock.h"

#include <chrono>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace kascade::testing {
namespace {

TEST(ClockTest, RunsAsTheMonotonicClockDoes) {
  using Steady = std::chrono::steady_clock;
  const auto steady_before = Steady::now();
  const absl::Time begin = steady_now();
  const auto steady_after = Steady::now();
  absl::Time end = begin;
  for (int i = 0; i < 1000; ++i) {
    const absl::Time now = steady_now();
    EXPECT_GE(now, end);
    end = now;
  }
  const auto steady_end = Steady::now();
  EXPECT_LE(end - begin, absl::FromChrono(steady_end - steady_before));
  EXPECT_GE(steady_now() - begin, absl::FromChrono(steady_end - steady_after));
}

TEST(ClockTest, IsNearTheWallClock) {
  EXPECT_LT(absl::AbsDuration(steady_now() - absl::Now()), absl::Minutes(1));
}

}  // namespace
}  // namespace kascade::testing
