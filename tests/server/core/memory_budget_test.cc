// Tests the budget of memory, and that requests stay within it and give back what they held.
#include "server/core/memory_budget.h"

#include <malloc.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/refusal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/core/generation.h"
#include "server/core/limits.h"
#include "server/core/scoring_request.h"
#include "server/core/tokens.h"
#include "tests/support/core_fixture.h"

namespace kascade::testing {
namespace {

using core::MemoryBudget;
using core::RequestGuard;
using Reservation = MemoryBudget::Reservation;
using ::testing::HasSubstr;

constexpr int64_t kMiB = int64_t{1} << 20;

int64_t used_memory() {
  const auto info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

TEST(MemoryBudgetTest, AReservationIsGivenBack) {
  metrics::ServerMetrics metrics;
  MemoryBudget budget(64 * kMiB, metrics);
  {
    Reservation reservation(budget);
    EXPECT_TRUE(reservation.resize(40 * kMiB).ok());
    EXPECT_EQ(budget.used(), 40 * kMiB);
    EXPECT_EQ(metrics.request_memory.Value(), 40.0 * kMiB);
    EXPECT_TRUE(reservation.resize(10 * kMiB).ok());
    EXPECT_EQ(budget.used(), 10 * kMiB);
    EXPECT_EQ(budget.returned(), 30 * kMiB);
  }
  EXPECT_EQ(budget.used(), 0);
  EXPECT_EQ(metrics.request_memory.Value(), 0);
  EXPECT_EQ(metrics.request_memory_limit.Value(), 64.0 * kMiB);
}

TEST(MemoryBudgetTest, WhatDoesNotFitNowMayBeTriedAgain) {
  metrics::ServerMetrics metrics;
  MemoryBudget budget(64 * kMiB, metrics);
  Reservation first(budget), second(budget);
  ASSERT_TRUE(first.resize(50 * kMiB).ok());
  ASSERT_TRUE(second.resize(kMiB).ok());
  const absl::Status status = second.resize(20 * kMiB);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(second.bytes(), kMiB);  // as it was
  const auto refusal = refusal_of(status).value_or(Refusal{});
  EXPECT_EQ(refusal.reason, "MEMORY_BUDGET");
  EXPECT_GT(refusal.retry_after, absl::ZeroDuration());
  using Detail = std::pair<std::string, std::string>;
  EXPECT_THAT(refusal.details,
              ::testing::ElementsAre(Detail("needed", "20971520"), Detail("limit", "58720256"),
                                     Detail("used", "52428800")));
  ASSERT_TRUE(first.resize(0).ok());
  EXPECT_TRUE(second.resize(20 * kMiB).ok());
}

TEST(MemoryBudgetTest, WhatCanNeverFitIsAPrecondition) {
  metrics::ServerMetrics metrics;
  MemoryBudget budget(64 * kMiB, metrics);
  Reservation reservation(budget);
  EXPECT_TRUE(reservation.resize(56 * kMiB).ok());
  const absl::Status status = reservation.resize(56 * kMiB + 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 58720256"));
  EXPECT_EQ(refusal_of(status).value_or(Refusal{}).reason, "MEMORY_BUDGET");
}

TEST(MemoryBudgetTest, LargeRequestsLeaveRoomForSmallOnes) {
  metrics::ServerMetrics metrics;
  MemoryBudget budget(64 * kMiB, metrics);
  Reservation large(budget), small(budget), other(budget);
  ASSERT_TRUE(large.resize(56 * kMiB).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(other.resize(2 * kMiB)));
  EXPECT_TRUE(small.resize(kMiB).ok());
}

TEST(MemoryBudgetTest, ThreadsNeverTakeMoreThanThereIs) {
  metrics::ServerMetrics metrics;
  MemoryBudget budget(kMiB, metrics);
  std::atomic<int64_t> most = 0, refused = 0;
  const auto take_and_return = [&] {
    Reservation reservation(budget);
    for (int i = 0; i < 20'000; ++i) {
      if (!reservation.resize(i % 7 * 100'000).ok()) ++refused;
      if (const int64_t used = budget.used(); used > most) most = used;
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back(take_and_return);
  }
  EXPECT_LE(most, kMiB);
  EXPECT_EQ(budget.used(), 0);
}

TEST(MemoryBudgetTest, WhatTheSystemHasNoMemoryForMayBeTriedAgain) {
  const absl::Status status =
      core::unless_out_of_memory([]() -> absl::Status { throw std::bad_alloc(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  const auto refusal = refusal_of(status).value_or(Refusal{});
  EXPECT_EQ(refusal.reason, "MEMORY_BUDGET");
  EXPECT_GT(refusal.retry_after, absl::ZeroDuration());
  EXPECT_TRUE(core::unless_out_of_memory([] { return absl::OkStatus(); }).ok());
}

TEST(RequestGuardTest, NobodyWorksForNobody) {
  metrics::ServerMetrics metrics;
  MemoryBudget budget(64 * kMiB, metrics);
  RequestGuard gone(budget);
  EXPECT_TRUE(gone.proceed(1000).ok());
  gone.cancel();
  EXPECT_TRUE(absl::IsCancelled(gone.proceed(1000)));
  RequestGuard late(budget);
  late.set_deadline(steady_now() - absl::Milliseconds(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.proceed(1000)));
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.hold_more(1000)));
}

TEST(RequestGuardTest, HoldsTheEncodingBesideTheRest) {
  metrics::ServerMetrics metrics;
  MemoryBudget budget(64 * kMiB, metrics);
  {
    RequestGuard guard(budget);
    ASSERT_TRUE(guard.hold_more(1000).ok());
    ASSERT_TRUE(guard.proceed(500).ok());
    EXPECT_EQ(budget.used(), 1500);
    ASSERT_TRUE(guard.hold_more(20).ok());
    EXPECT_EQ(budget.used(), 1020);
  }
  EXPECT_EQ(budget.used(), 0);
}

class RequestMemoryTest : public CoreTest {
 protected:
  // Runs `work` and returns by how much what it takes exceeds what the guard holds at its end.
  template <typename Work>
  int64_t excess(RequestGuard& guard, const Work& work) {
    const int64_t before = used_memory();
    const auto result = work();
    EXPECT_TRUE(result.ok()) << result.status();
    return used_memory() - before - guard.held_bytes();
  }
  // The request refers to the text.
  core::ScoringRequest score_of(const std::string&& text) = delete;
  core::ScoringRequest score_of(const std::string& text) {
    core::ScoringRequest request;
    request.inputs = {core::TextToScore{text}};
    return request;
  }
  static std::vector<std::string> costly_texts() {
    return {std::string(200'000, 'a'), long_text(200'000), std::string(200'000, ' ')};
  }
};

TEST_F(RequestMemoryTest, APromptBeyondTheContextIsNotEncoded) {
  RequestGuard guard(memory_);
  const std::string text(4 << 20, 'x');
  const auto prompt = core::encode_prompt(core::TextPrompt{text}, {}, *engine_, guard, 511);
  EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal_of(prompt.status()).value_or(Refusal{}).reason, "TOO_LONG");
  EXPECT_THAT(std::string(prompt.status().message()), HasSubstr("more than 511 tokens"));
  EXPECT_EQ(memory_.returned(), 0);  // nothing was reserved
}

TEST_F(RequestMemoryTest, AnExpiredTextIsNotEncoded) {
  RequestGuard guard(memory_);
  const std::string text = long_text(4 << 20);
  auto request = score_of(text);
  request.deadline = steady_now();
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(core::prepare(request, *engine_, *schedules_, guard).status()));
}

TEST_F(RequestMemoryTest, AScoringHoldsWhatItsSequencesTake) {
  for (const std::string& text : costly_texts()) {
    for (const int32_t window : {2, 512}) {
      RequestGuard guard(memory_);
      auto request = score_of(text);
      request.window_tokens = window;
      EXPECT_LE(excess(guard, [&] { return core::prepare(request, *engine_, *schedules_, guard); }),
                0);
      EXPECT_LT(guard.held_bytes(), 100 * static_cast<int64_t>(text.size()));
    }
  }
  EXPECT_EQ(memory_.used(), 0);
}

TEST_F(RequestMemoryTest, AScoringThatCanNeverFitIsRefused) {
  MemoryBudget small(kMiB, metrics_);
  RequestGuard guard(small);
  const std::string text = long_text(1 << 20);
  const absl::Status status = core::prepare(score_of(text), *engine_, *schedules_, guard).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_EQ(refusal_of(status).value_or(Refusal{}).reason, "MEMORY_BUDGET");
}

TEST_F(RequestMemoryTest, TokensAndTheirReplyAreHeld) {
  for (const std::string& text : costly_texts()) {
    for (const bool details : {false, true}) {
      const std::vector<std::string_view> texts = {text};
      RequestGuard guard(memory_);
      EXPECT_LE(excess(guard,
                       [&] {
                         return core::tokenize(
                             *engine_,
                             {.texts = texts, .details = details, .max_reply_bytes = 16 << 20},
                             guard);
                       }),
                0);
    }
  }
}

TEST_F(RequestMemoryTest, AReplyBeyondTheLimitIsRefusedBeforeTheTextIsEncoded) {
  const std::string text = long_text(400'000);
  const std::vector<std::string_view> texts = {"a", text};
  for (const bool details : {false, true}) {
    RequestGuard guard(memory_);
    const absl::Status status =
        core::tokenize(*engine_, {.texts = texts, .details = details, .max_reply_bytes = 20'000},
                       guard)
            .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(refusal_of(status).value_or(Refusal{}).reason, "TOO_LONG");
    EXPECT_EQ(refusal_of(status).value_or(Refusal{}).field, "texts[1]");
    EXPECT_THAT(std::string(status.message()), HasSubstr("more than 20000 bytes"));
  }
}

TEST_F(RequestMemoryTest, ATextOfTokensBeyondTheLimitIsRefused) {
  const std::vector<Token> tokens(5000, 'a');
  RequestGuard guard(memory_);
  const absl::Status status =
      core::detokenize(*engine_, tokens, true, /*max_reply_bytes=*/4999, guard).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal_of(status).value_or(Refusal{}).field, "tokens");
  EXPECT_LE(excess(guard, [&] { return core::detokenize(*engine_, tokens, true, 5000, guard); }),
            0);
}

}  // namespace
}  // namespace kascade::testing
