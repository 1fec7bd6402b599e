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

// A load of `waiting` batch entries of 90 + 10 tokens, of which one starts in each second.
Admission busy_batch(const AdmissionLimits& limits, int waiting) {
  Admission admission(limits);
  const QueueEntry batch = entry(90, "a", Priority::kBatch);
  for (int i = 0; i < waiting; ++i) admission.enter(batch);
  for (int i = 0; i < 100; ++i) {
    admission.enter(batch);
    admission.leave(batch);
    const QueueEntry started[] = {batch};
    admission.record_step({.seconds = 1, .started = started});
  }
  return admission;
}

double batch_wait(const Admission& admission, const std::string& client) {
  return admission.predicted_wait(entry(90, client, Priority::kBatch)).value_or(-1);
}

// All places are taken; one becomes free every second, with blocks for 160 tokens.
PlaceOutlook taken(int places) {
  PlaceOutlook outlook{.started = places};
  for (int i = 1; i <= places; ++i) {
    outlook.departures.push_back({.steps = 10.0 * i, .places = 1, .blocks = 5});
  }
  return outlook;
}

// Twelve interactive requests run and `waiting` of 90 tokens wait, for a minute already; a step
// takes 0.1 s, and a prompt of 90 tokens as long.
Admission busy(double max_wait_seconds, int waiting) {
  Admission admission(
      {.max_queued_tokens = 1 << 20, .max_wait_seconds = max_wait_seconds, .max_sequences = 12});
  for (int i = 0; i < waiting; ++i) admission.enter(entry(90));
  admission.set_outlook(taken(12));
  for (int i = 0; i < 600; ++i) admission.record_step({.seconds = 0.1, .rows_per_second = 900});
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

TEST(Admission, PredictsTheWaitOfABatchRequestFromTheRateAtWhichTheyStart) {
  EXPECT_NEAR(batch_wait(busy_batch({.max_queued_tokens = 100000}, 20), "a"), 20, 1);
}

TEST(Admission, AnotherClientWaitsForItsTurnOnly) {
  EXPECT_NEAR(batch_wait(busy_batch({.max_queued_tokens = 100000}, 20), "b"), 2, 0.2);
}

TEST(Admission, StepsAfterWhichNothingWaitsSayNothing) {
  Admission admission({.max_queued_tokens = 100});
  for (int i = 0; i < 50; ++i) admission.record_step({.seconds = 1});
  EXPECT_EQ(batch_wait(admission, "a"), 0);
  admission.enter(entry(90, "a", Priority::kBatch));
  EXPECT_EQ(batch_wait(admission, "a"), -1) << "not known";
}

TEST(Admission, TheForecastStandsInUntilSomethingWasMeasured) {
  Admission admission({.max_queued_tokens = 1000});
  admission.enter(entry(90, "a", Priority::kBatch));
  admission.enter(entry(90, "a", Priority::kBatch));
  admission.record_step({.seconds = 0.1, .rows_per_second = 60});
  EXPECT_NEAR(batch_wait(admission, "a"), 3, 1e-9);
}

TEST(Admission, AnInteractiveRequestWaitsForAPlaceAndForThePromptsBeforeIt) {
  const auto wait = [](int waiting) {
    return busy(0, waiting).predicted_wait(entry(90)).value_or(-1);
  };
  EXPECT_NEAR(wait(0), 1, 1e-6);
  EXPECT_NEAR(wait(2), 3 + 0.2, 1e-6);
  EXPECT_NEAR(wait(23), 24 + 2.3, 1e-6) << "after those that run now, others follow as fast";
}

TEST(Admission, AnInteractiveRequestWaitsForBlocks) {
  // 480 tokens take 15 blocks.
  EXPECT_NEAR(busy(0, 0).predicted_wait(entry(480)).value_or(-1), 3, 1e-6);
}

TEST(Admission, AnInteractiveRequestWaitsForPromptsThatHaveBegun) {
  Admission admission = busy(0, 0);
  PlaceOutlook outlook = taken(12);
  outlook.free_places = 1;
  outlook.free_blocks = 100;
  outlook.rows_to_feed = 1800;
  admission.set_outlook(outlook);
  EXPECT_NEAR(admission.predicted_wait(entry(90)).value_or(-1), 2, 1e-6);
}

TEST(Admission, NothingIsKnownOfTheWaitBeforeTheFirstStep) {
  EXPECT_EQ(Admission({.max_queued_tokens = 100}).predicted_wait(entry(90)), std::nullopt);
}

TEST(Admission, RefusesAWaitThatIsTooLong) {
  Admission admission = busy(10, 9);
  const absl::Status status = admission.check(entry(90));
  EXPECT_EQ(reason_of(status), reason::kWaitTooLong);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("10.90 s, the limit is 10 s"));
  EXPECT_TRUE(admission.check(entry(90, "b")).ok()) << "it is the turn of another client";
  EXPECT_TRUE(admission.check(entry(90, "a", Priority::kBatch)).ok()) << "batch may wait";
  EXPECT_TRUE(busy(10, 8).check(entry(90)).ok()) << "9.8 s";
  EXPECT_TRUE(busy(0, 100).check(entry(90)).ok()) << "no limit";
}

TEST(Admission, ByItselfAWaitIsLimitedByTheTimeOfTheFirstToken) {
  // 2 · (0.1 + 0.1) s; the next place is free after 1 s.
  Admission admission = busy(kAutomaticWait, 0);
  EXPECT_EQ(reason_of(admission.check(entry(90))), reason::kWaitTooLong);
  PlaceOutlook outlook = taken(12);
  outlook.departures.front().steps = 4;
  admission.set_outlook(outlook);
  EXPECT_TRUE(admission.check(entry(90)).ok());
  outlook.departures.front().steps = 5;
  admission.set_outlook(outlook);
  EXPECT_FALSE(admission.check(entry(90)).ok());
  EXPECT_TRUE(admission.check(entry(160)).ok()) << "it takes longer itself";
}

TEST(Admission, AShortPromptMayWaitForALongOne) {
  Admission admission = busy(kAutomaticWait, 0);
  PlaceOutlook outlook = taken(12);
  outlook.free_places = 20;
  outlook.free_blocks = 1000;
  outlook.rows_to_feed = 9000;
  outlook.prompts_to_feed = 1;
  admission.set_outlook(outlook);
  EXPECT_TRUE(admission.check(entry(9)).ok()) << "10 s";
  outlook.prompts_to_feed = 3;
  admission.set_outlook(outlook);
  EXPECT_FALSE(admission.check(entry(9)).ok()) << "10 s, but each takes a third of that";
}

TEST(Admission, AFewAreNeverRefusedForTheirWait) {
  for (const double limit : {0.01, kAutomaticWait}) {
    Admission admission = busy(limit, 0);
    admission.set_outlook(taken(7));
    admission.enter(entry(90));
    admission.enter(entry(90));
    EXPECT_TRUE(admission.check(entry(90)).ok()) << "nine before it";
    admission.enter(entry(90));
    EXPECT_FALSE(admission.check(entry(90)).ok());
  }
}

TEST(Admission, AfterAPauseManyMayComeAtOnce) {
  Admission admission = busy(kAutomaticWait, 0);
  EXPECT_TRUE(admission.check(entry(90), /*idle_seconds=*/20).ok());
  EXPECT_FALSE(admission.check(entry(90), /*idle_seconds=*/1).ok());
  admission.record_step({.seconds = 0.1, .idle_seconds = 20, .rows_per_second = 900});
  for (int i = 0; i < 12; ++i) {
    EXPECT_TRUE(admission.check(entry(90)).ok()) << i;
    admission.enter(entry(90));
  }
  EXPECT_FALSE(admission.check(entry(90)).ok()) << "as many wait as run";
}

TEST(Admission, ManyMayComeAtOnceWhileLittleIsInteractive) {
  const auto admits = [](int started, int rows) {
    Admission admission = busy(kAutomaticWait, 0);
    admission.set_outlook(taken(started));
    for (int i = 0; i < 600; ++i) {
      admission.record_step({.seconds = 0.1, .interactive_rows = rows, .rows_per_second = 900});
    }
    admission.set_outlook(taken(12));
    return admission.check(entry(90)).ok();
  };
  EXPECT_TRUE(admits(2, 100));
  EXPECT_FALSE(admits(4, 100)) << "a third of the places";
  EXPECT_FALSE(admits(2, 200)) << "more than a third of the rows";
}

TEST(Admission, TheDelayFollowsThePredictionWithinBounds) {
  const auto delay = [](int waiting) {
    Admission admission = busy_batch({.max_queue = waiting, .max_queued_tokens = 1 << 20}, waiting);
    return retry_seconds(admission.check(entry(90, "a", Priority::kBatch)));
  };
  EXPECT_GE(delay(20), 19);
  EXPECT_LE(delay(20), 26);
  EXPECT_GE(delay(40), 38);
  EXPECT_LE(delay(40), 52);
  EXPECT_GE(delay(1000), 60);
  EXPECT_LE(delay(1000), 75);
}

TEST(Admission, ClientsThatAreRefusedTogetherComeBackApart) {
  Admission admission = busy(0.5, 20);
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
