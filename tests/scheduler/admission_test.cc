#include "engine/scheduler/admission.h"

#include <string>

#include "absl/strings/numbers.h"
#include "engine/base/refusal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

QueueEntry entry(int64_t tokens, const std::string& client = "a",
                 Priority priority = Priority::kInteractive) {
  return {.priority = priority, .client = client, .tokens = tokens, .new_tokens = 10};
}

std::string reason_of(const absl::Status& status) {
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  return refusal_of(status).value_or(Refusal{}).reason;
}

double retry_seconds(const absl::Status& status) {
  return absl::ToDoubleSeconds(refusal_of(status).value_or(Refusal{}).retry_after);
}

// A load of `waiting` entries of 90 + 10 tokens, of which one starts in each second.
Admission busy(const AdmissionLimits& limits, int waiting) {
  Admission admission(limits);
  for (int i = 0; i < waiting; ++i) admission.enter(entry(90));
  for (int i = 0; i < 100; ++i) {
    admission.enter(entry(90));
    admission.leave(entry(90));
    const QueueEntry started[] = {entry(90)};
    admission.record_step(1, started, std::nullopt);
  }
  return admission;
}

TEST(Admission, LimitsTheNumberOfEachClass) {
  Admission admission({.max_queue = 2, .max_queued_tokens = 1000});
  admission.enter(entry(1));
  EXPECT_TRUE(admission.check(entry(1)).ok());
  admission.enter(entry(1));
  EXPECT_EQ(reason_of(admission.check(entry(1))), reason::kQueueFull);
  EXPECT_TRUE(admission.check(entry(1, "a", Priority::kBatch)).ok());
  admission.leave(entry(1));
  EXPECT_TRUE(admission.check(entry(1)).ok());
}

TEST(Admission, LimitsTheTokens) {
  Admission admission({.max_queued_tokens = 100});
  EXPECT_TRUE(admission.check(entry(500)).ok()) << "nothing else waits";
  admission.enter(entry(60));
  EXPECT_TRUE(admission.check(entry(40)).ok());
  EXPECT_EQ(reason_of(admission.check(entry(41))), reason::kQueuedTokens);
}

TEST(Admission, NewLimitsHoldForNewRequests) {
  Admission admission({.max_queue = 1, .max_queued_tokens = 100});
  admission.enter(entry(10));
  EXPECT_EQ(reason_of(admission.check(entry(10))), reason::kQueueFull);
  admission.set_limits({.max_queue = 2, .max_queued_tokens = 15});
  EXPECT_EQ(reason_of(admission.check(entry(10))), reason::kQueuedTokens);
  EXPECT_TRUE(admission.check(entry(5)).ok());
  EXPECT_EQ(admission.waiting(Priority::kInteractive), 1);
}

TEST(Admission, NeverRefusesBackgroundWork) {
  Admission admission({.max_queue = 1, .max_queued_tokens = 1});
  const QueueEntry background = entry(50, "", Priority::kBackground);
  admission.enter(background);
  EXPECT_TRUE(admission.check(background).ok());
}

TEST(Admission, PredictsTheWaitFromTheRateAtWhichRequestsStart) {
  const Admission admission = busy({.max_queued_tokens = 100000}, 20);
  const auto wait = admission.predicted_wait(Priority::kInteractive, "a");
  ASSERT_TRUE(wait.has_value());
  EXPECT_NEAR(*wait, 20, 1);
}

TEST(Admission, AnotherClientWaitsForItsTurnOnly) {
  const Admission admission = busy({.max_queued_tokens = 100000}, 20);
  EXPECT_NEAR(admission.predicted_wait(Priority::kInteractive, "b").value_or(-1), 2, 0.2);
}

TEST(Admission, StepsAfterWhichNothingWaitsSayNothing) {
  Admission admission({.max_queued_tokens = 100});
  for (int i = 0; i < 50; ++i) admission.record_step(1, {}, std::nullopt);
  EXPECT_EQ(admission.predicted_wait(Priority::kInteractive, "a"), 0);
  admission.enter(entry(90));
  EXPECT_EQ(admission.predicted_wait(Priority::kInteractive, "a"), std::nullopt);
}

TEST(Admission, TheForecastStandsInUntilSomethingWasMeasured) {
  Admission admission({.max_queued_tokens = 1000});
  admission.enter(entry(90));
  admission.enter(entry(90));
  admission.record_step(0.1, {}, /*rows_per_second=*/60);
  EXPECT_NEAR(admission.predicted_wait(Priority::kInteractive, "a").value_or(-1), 3, 1e-9);
}

TEST(Admission, RefusesAWaitThatIsTooLong) {
  const AdmissionLimits limits{
      .max_queued_tokens = 100000, .max_wait_seconds = 10, .always_waiting = 4};
  Admission admission = busy(limits, 20);
  const absl::Status status = admission.check(entry(90));
  EXPECT_EQ(reason_of(status), reason::kWaitTooLong);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("the limit is 10 s"));
  EXPECT_TRUE(admission.check(entry(90, "b")).ok()) << "it is the turn of another client";
  EXPECT_TRUE(admission.check(entry(90, "a", Priority::kBatch)).ok()) << "batch may wait";
  EXPECT_TRUE(busy(limits, 5).check(entry(90)).ok()) << "5 s";
}

TEST(Admission, AFewMayAlwaysWait) {
  const AdmissionLimits limits{
      .max_queued_tokens = 100000, .max_wait_seconds = 0.5, .always_waiting = 4};
  EXPECT_TRUE(busy(limits, 3).check(entry(90)).ok());
  EXPECT_FALSE(busy(limits, 4).check(entry(90)).ok());
}

TEST(Admission, TheDelayFollowsThePredictionWithinBounds) {
  const auto delay = [](int waiting) {
    return retry_seconds(
        busy({.max_queue = waiting, .max_queued_tokens = 1 << 20}, waiting).check(entry(90)));
  };
  EXPECT_GE(delay(20), 19);
  EXPECT_LE(delay(20), 26);
  EXPECT_GE(delay(40), 38);
  EXPECT_LE(delay(40), 52);
  EXPECT_GE(delay(1000), 60);
  EXPECT_LE(delay(1000), 75);
}

TEST(Admission, ClientsThatAreRefusedTogetherComeBackApart) {
  Admission admission = busy({.max_queue = 20, .max_queued_tokens = 1 << 20}, 20);
  const double first = retry_seconds(admission.check(entry(90)));
  const double second = retry_seconds(admission.check(entry(90)));
  EXPECT_NE(first, second);
}

TEST(Fits, NamesTheLimit) {
  const BlockAllocator blocks(4, 16);
  EXPECT_TRUE(check_fits(64, 1, blocks, 1).ok());
  const absl::Status cache = check_fits(65, 1, blocks, 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(cache));
  EXPECT_EQ(refusal_of(cache).value_or(Refusal{}).reason, reason::kCacheTooSmall);
  EXPECT_THAT(std::string(cache.message()), testing::HasSubstr("it holds 64"));
  EXPECT_FALSE(check_fits(33, 2, blocks, 2).ok());
  const absl::Status runs = check_fits(8, 2, blocks, 1);
  EXPECT_EQ(refusal_of(runs).value_or(Refusal{}).reason, reason::kTooManyRuns);
}

}  // namespace
}  // namespace kascade
