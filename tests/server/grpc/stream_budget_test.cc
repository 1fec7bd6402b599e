// Tests when a connection has had too many streams or too much data for what it got done.
#include "server/grpc/connections/stream_budget.h"

#include "gtest/gtest.h"

namespace kascade::server {
namespace {

using net::ClosureReason;
using std::chrono::milliseconds;

class StreamBudgetTest : public ::testing::Test {
 protected:
  std::optional<ClosureReason> observe(const SocketCounts& counts, milliseconds later) {
    now_ += later;
    return budget_.observe(counts, now_);
  }

  StreamBudget::Time now_{std::chrono::hours(1)};
  StreamBudget budget_{{.streams = 100, .forgiven_per_second = 10, .message_bytes = 1 << 20}};
};

TEST_F(StreamBudgetTest, AnsweredStreamsAreFree) {
  for (int64_t i = 0; i < 100'000; i += 5000) {
    const SocketCounts counts{.started = i + 100, .succeeded = i, .messages = i, .bytes = 100 * i};
    EXPECT_EQ(observe(counts, milliseconds(100)), std::nullopt);
  }
}

TEST_F(StreamBudgetTest, OpenStreamsAreLimited) {
  EXPECT_EQ(observe({.started = 100}, milliseconds(0)), std::nullopt);
  EXPECT_EQ(observe({.started = 101}, milliseconds(100)), ClosureReason::kStreams);
}

TEST_F(StreamBudgetTest, FailedStreamsAreForgivenSlowly) {
  EXPECT_EQ(observe({.started = 100, .failed = 100}, milliseconds(0)), std::nullopt);
  EXPECT_EQ(observe({.started = 110, .failed = 110}, milliseconds(1000)), std::nullopt);
  EXPECT_EQ(observe({.started = 120, .failed = 119}, milliseconds(1000)), std::nullopt);
  EXPECT_EQ(observe({.started = 140, .failed = 135}, milliseconds(1000)), ClosureReason::kStreams);
}

TEST_F(StreamBudgetTest, AQuietTimeIsNotSavedUp) {
  EXPECT_EQ(observe({.started = 1, .failed = 1}, milliseconds(0)), std::nullopt);
  EXPECT_EQ(observe({.started = 102, .failed = 102}, milliseconds(3'600'000)),
            ClosureReason::kStreams);
}

constexpr int64_t kMiB = 1 << 20;

TEST_F(StreamBudgetTest, AMessageMayArriveSlowlyAndNothingElse) {
  EXPECT_EQ(observe({.started = 1, .bytes = 100}, milliseconds(0)), std::nullopt);
  EXPECT_EQ(observe({.started = 1, .bytes = 5 * kMiB}, milliseconds(100)), std::nullopt);
  EXPECT_EQ(observe({.started = 1, .bytes = 5 * kMiB + 101}, milliseconds(100)),
            ClosureReason::kData);
}

TEST_F(StreamBudgetTest, ProgressAndMoreStreamsAllowMoreData) {
  EXPECT_EQ(observe({.started = 3, .bytes = 0}, milliseconds(0)), std::nullopt);
  EXPECT_EQ(observe({.started = 3, .bytes = 7 * kMiB}, milliseconds(100)), std::nullopt);
  EXPECT_EQ(observe({.started = 3, .messages = 1, .bytes = 14 * kMiB}, milliseconds(100)),
            std::nullopt);
  EXPECT_EQ(observe({.started = 50, .messages = 1, .bytes = 20 * kMiB}, milliseconds(100)),
            std::nullopt);
  EXPECT_EQ(observe({.started = 50, .messages = 1, .bytes = 28 * kMiB + 1}, milliseconds(100)),
            ClosureReason::kData);
}

TEST_F(StreamBudgetTest, HeaderFieldsTakeMoreMemoryThanMessages) {
  EXPECT_EQ(observe({.started = 1, .allocated = 500 * kMiB}, milliseconds(0)), std::nullopt);
  EXPECT_EQ(observe({.started = 1, .bytes = kMiB, .allocated = 568 * kMiB}, milliseconds(20)),
            std::nullopt)
      << "64 MiB, and four times what came";
  EXPECT_EQ(observe({.started = 1, .bytes = 2 * kMiB, .allocated = 573 * kMiB}, milliseconds(20)),
            ClosureReason::kData);
}

TEST_F(StreamBudgetTest, MemoryBeforeTheLastProgressDoesNotCount) {
  EXPECT_EQ(observe({.started = 1}, milliseconds(0)), std::nullopt);
  EXPECT_EQ(observe({.started = 1, .messages = 1, .bytes = kMiB, .allocated = 900 * kMiB},
                    milliseconds(20)),
            std::nullopt);
  EXPECT_EQ(observe({.started = 1, .messages = 1, .bytes = 2 * kMiB, .allocated = 960 * kMiB},
                    milliseconds(20)),
            std::nullopt);
}

TEST_F(StreamBudgetTest, MemoryOfAQuietTimeDoesNotCount) {
  EXPECT_EQ(observe({.started = 1}, milliseconds(0)), std::nullopt);
  EXPECT_EQ(observe({.started = 1, .bytes = 1000, .allocated = 900 * kMiB}, milliseconds(2000)),
            std::nullopt);
  EXPECT_EQ(observe({.started = 1, .bytes = kMiB, .allocated = 960 * kMiB}, milliseconds(20)),
            std::nullopt);
}

}  // namespace
}  // namespace kascade::server
