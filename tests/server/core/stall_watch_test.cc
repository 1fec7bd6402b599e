// Tests when the engine counts as stalled, with times of its own.
#include "server/core/stall_watch.h"

#include "gtest/gtest.h"

namespace kascade::core {
namespace {

using std::chrono::seconds;

class StallWatchTest : public ::testing::Test {
 protected:
  // Observes `stats` once a second for so long; whether the engine is stalled in the end.
  bool after(seconds duration, const EngineStats& stats) {
    for (seconds passed{0}; passed < duration; ++passed) {
      now_ += seconds(1);
      watch_.observe(stats, layers_, now_);
    }
    return watch_.stalled();
  }

  int64_t layers_ = 50;
  StallWatch::Time now_{std::chrono::hours(100)};
  StallWatch watch_{seconds(300)};
};

constexpr EngineStats kIdle{.steps = 5};
constexpr EngineStats kRunning{.steps = 5, .running = 2};
constexpr EngineStats kWaiting{.steps = 5, .waiting = 1};

TEST_F(StallWatchTest, WorkWithoutProgressIsAStall) {
  for (const EngineStats& stats : {kRunning, kWaiting}) {
    EXPECT_FALSE(after(seconds(10), kIdle));
    EXPECT_FALSE(after(seconds(299), stats));
    EXPECT_TRUE(after(seconds(2), stats));
    EXPECT_GE(watch_.standstill(), seconds(300));
  }
}

TEST_F(StallWatchTest, AnIdleEngineIsNotStalled) { EXPECT_FALSE(after(seconds(5000), kIdle)); }

TEST_F(StallWatchTest, ALayerIsProgressAndSoIsAStep) {
  EngineStats stats = kRunning;
  for (int i = 0; i < 20; ++i) {
    EXPECT_FALSE(after(seconds(200), stats));
    ++(i % 2 == 0 ? layers_ : stats.steps);
  }
}

TEST_F(StallWatchTest, ProgressEndsAStall) {
  EXPECT_TRUE(after(seconds(400), kRunning));
  ++layers_;
  EXPECT_FALSE(after(seconds(1), kRunning));
  EXPECT_FALSE(after(seconds(298), kRunning));
  EXPECT_TRUE(after(seconds(10), kRunning));
  EXPECT_FALSE(after(seconds(1), kIdle));
}

TEST_F(StallWatchTest, AProcessThatWasStoppedIsNotStalled) {
  EXPECT_FALSE(after(seconds(290), kRunning));
  now_ += seconds(3600);
  EXPECT_FALSE(after(seconds(299), kRunning));
  EXPECT_TRUE(after(seconds(5), kRunning));
  now_ += seconds(3600);  // a pause does not end a stall
  EXPECT_TRUE(after(seconds(1), kRunning));
}

TEST_F(StallWatchTest, ZeroSecondsMeanNever) {
  watch_ = StallWatch(seconds(0));
  EXPECT_FALSE(after(seconds(5000), kRunning));
}

}  // namespace
}  // namespace kascade::core
