// Tests requests at and beyond their limits: the errors of validate(), and their machine-readable
// details.
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/refusal.h"
#include "engine/request.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using ::testing::HasSubstr;

constexpr ModelLimits kModel{.vocab = 10, .context = 300, .layers = 4};

Request generation() { return {.tokens = {1, 2, 3}, .task = Generate{}}; }
Request scoring() { return {.tokens = {1, 2, 3}, .task = Score{}}; }
Generate& generate_of(Request& request) { return std::get<Generate>(request.task); }
Score& score_of(Request& request) { return std::get<Score>(request.task); }

TEST(Validate, AcceptsLimits) {
  EXPECT_EQ(validate(generation(), kModel), absl::OkStatus());
  EXPECT_EQ(validate(scoring(), kModel), absl::OkStatus());
  Request request = generation();
  request.task = Generate{.sampling = {.temperature = 0,
                                       .top_k = 1 << 30,
                                       .top_p = 1e-9,
                                       .min_p = 1,
                                       .repetition_penalty = 1e-9,
                                       .presence_penalty = -2,
                                       .frequency_penalty = 2,
                                       .logit_bias = {{0, -100}, {9, 100}}},
                          .max_new_tokens = 300,
                          .min_new_tokens = 300,
                          .stop_tokens = {0, 9, 9},
                          .top_logprobs = 20};
  request.tokens.resize(299);
  EXPECT_EQ(validate(request, kModel), absl::OkStatus());
  request = scoring();
  request.tokens.resize(301);
  score_of(request).first_scored = 300;
  request.attention = BaselineAttention{.ratio = 1, .min_keys = 0, .dense_layers = {3, 0, 3}};
  request.compared_with = DenseAttention{};
  EXPECT_EQ(validate(request, kModel), absl::OkStatus());
}

TEST(Validate, SparseAttentionStaysInTheModelsWindow) {
  ModelLimits windowed = kModel;
  windowed.sliding_window = 20;
  Request request = generation();  // 3 tokens, of which 2 positions precede the first new one
  request.attention = BaselineAttention{};
  generate_of(request).max_new_tokens = 18;
  EXPECT_EQ(validate(request, windowed), absl::OkStatus());
  EXPECT_EQ(computed_attention(request, windowed).front(), request.attention);
  generate_of(request).max_new_tokens = 19;
  EXPECT_EQ(validate(request, kModel), absl::OkStatus());
  const absl::Status refused = validate(request, windowed);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("attention: the model has a sliding window of 20 tokens"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("got 21;"));
  // Dense attention has no limit, and is attention within the window.
  request.attention = DenseAttention{};
  EXPECT_EQ(validate(request, windowed), absl::OkStatus());
  EXPECT_EQ(computed_attention(request, windowed), std::vector{dense_within(20)});
  EXPECT_EQ(computed_attention(request, kModel), std::vector<AttentionChoice>{DenseAttention{}});

  request = scoring();
  request.tokens.resize(22);
  request.compared_with = DenseAttention{};
  EXPECT_EQ(validate(request, windowed), absl::OkStatus());
  EXPECT_EQ(computed_attention(request, windowed),
            (std::vector{dense_within(20), dense_within(20)}));
  request.compared_with = BaselineAttention{};
  EXPECT_THAT(std::string(validate(request, windowed).message()),
              HasSubstr("compared_with: the model has a sliding window"));
  request.tokens.resize(21);
  EXPECT_EQ(validate(request, windowed), absl::OkStatus());
}

struct Fault {
  std::function<void(Request&)> make;
  const char* message;
  const char* reason = reason::kInvalidField;
};

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinite = std::numeric_limits<double>::infinity();

Fault sampling(const std::function<void(Sampling&)>& make, const char* message,
               const char* reason = reason::kInvalidField) {
  return {[make](Request& r) { make(generate_of(r).sampling); }, message, reason};
}

const Fault kGenerateFaults[] = {
    sampling([](Sampling& s) { s.temperature = -0.1; },
             "temperature: must be in [0, 1e+06], got -0.1"),
    sampling([](Sampling& s) { s.temperature = kNan; },
             "temperature: must be in [0, 1e+06], got nan"),
    sampling([](Sampling& s) { s.temperature = kInfinite; },
             "temperature: must be in [0, 1e+06], got inf"),
    sampling([](Sampling& s) { s.top_k = -1; }, "top_k: must be in [0, 2147483647], got -1"),
    sampling([](Sampling& s) { s.top_p = 0; }, "top_p: must be in (0, 1], got 0"),
    sampling([](Sampling& s) { s.top_p = 1.01; }, "top_p: must be in (0, 1], got 1.01"),
    sampling([](Sampling& s) { s.top_p = kNan; }, "top_p: must be in (0, 1], got nan"),
    sampling([](Sampling& s) { s.min_p = -0.1; }, "min_p: must be in [0, 1], got -0.1"),
    sampling([](Sampling& s) { s.repetition_penalty = 0; },
             "repetition_penalty: must be in (0, 1e+06], got 0"),
    sampling([](Sampling& s) { s.presence_penalty = 2.5; },
             "presence_penalty: must be in [-2, 2], got 2.5"),
    sampling([](Sampling& s) { s.frequency_penalty = kNan; },
             "frequency_penalty: must be in [-2, 2], got nan"),
    sampling([](Sampling& s) { s.logit_bias = {{1, 1.0f}, {10, 1.0f}}; },
             "logit_bias[1].token: must be in [0, 10), got 10", reason::kUnknownToken),
    sampling([](Sampling& s) { s.logit_bias = {{1, 101.0f}}; },
             "logit_bias[0].bias: must be in [-100, 100], got 101"),
    sampling([](Sampling& s) { s.logit_bias = {{1, std::nanf("")}}; },
             "logit_bias[0].bias: must be in [-100, 100], got nan"),
    sampling([](Sampling& s) { s.logit_bias = {{3, 1.0f}, {2, 1.0f}, {3, 2.0f}}; },
             "logit_bias[2].token: 3 comes twice"),
    sampling([](Sampling& s) { s.logit_bias.resize(1025); },
             "logit_bias: at most 1024 entries, got 1025"),
    {[](Request& r) { generate_of(r).stop_tokens = {1, 10}; },
     "stop_tokens[1]: must be in [0, 10), got 10", reason::kUnknownToken},
    {[](Request& r) { generate_of(r).stop_tokens.resize(513); },
     "stop_tokens: at most 512, got 513"},
    {[](Request& r) { generate_of(r).max_new_tokens = 0; },
     "max_new_tokens: must be in [1, 300], got 0"},
    {[](Request& r) { generate_of(r).max_new_tokens = 301; },
     "max_new_tokens: must be in [1, 300], got 301"},
    {[](Request& r) { generate_of(r).min_new_tokens = 257; },
     "min_new_tokens: must be in [0, 256], got 257"},
    {[](Request& r) { generate_of(r).top_logprobs = 21; },
     "top_logprobs: must be in [0, 20], got 21"},
    {[](Request& r) { r.tokens = {}; }, "tokens: the prompt has no token, not even a BOS"},
    {[](Request& r) { r.tokens = {1, -1}; }, "tokens[1]: must be in [0, 10), got -1",
     reason::kUnknownToken},
    {[](Request& r) { r.tokens.resize(300); },
     "tokens: the prompt has 300 tokens; at most 299 leave room for a new one in the model's "
     "context",
     reason::kTooLong},
    {[](Request& r) { r.compared_with = DenseAttention{}; },
     "compared_with: goes with a text to score only"},
};

const Fault kScoreFaults[] = {
    {[](Request& r) { score_of(r).first_scored = 0; }, "first_scored: must be in [1, 2], got 0"},
    {[](Request& r) { score_of(r).first_scored = 3; }, "first_scored: must be in [1, 2], got 3"},
    {[](Request& r) { score_of(r).top_logprobs = -1; }, "top_logprobs: must be in [0, 20], got -1"},
    {[](Request& r) { r.tokens.resize(302); },
     "tokens: at most 301 can be scored in one window, got 302", reason::kTooLong},
    {[](Request& r) { r.attention = BaselineAttention{.ratio = 0}; },
     "attention.baseline.ratio: must be in (0, 1], got 0"},
    {[](Request& r) { r.compared_with = BaselineAttention{.min_keys = -1}; },
     "compared_with.baseline.min_keys: must be in [0, 1048576], got -1"},
    {[](Request& r) { r.attention = BaselineAttention{.page_size = 129}; },
     "attention.baseline.page_size: must be in [1, 128], got 129"},
    {[](Request& r) { r.attention = BaselineAttention{.kind = BaselineKind::kWindow}; },
     "attention.baseline.window: must be in [1, 1048576], got 0"},
    {[](Request& r) {
       r.attention = BaselineAttention{.kind = BaselineKind::kWindow, .window = 1048577};
     },
     "attention.baseline.window: must be in [1, 1048576], got 1048577"},
    {[](Request& r) {
       r.compared_with = BaselineAttention{.kind = BaselineKind::kChunk, .chunk = -1};
     },
     "compared_with.baseline.chunk: must be in [1, 1048576], got -1"},
    {[](Request& r) { r.attention = BaselineAttention{.dense_layers = {0, 4}}; },
     "attention.baseline.dense_layers[1]: must be in [0, 3], got 4"},
    {[](Request& r) { r.compared_with = ScheduledAttention{.schedule = nullptr, .ratio = 1.5}; },
     "compared_with.schedule.ratio: must be in (0, 1], got 1.5"},
    {[](Request& r) { r.attention = ScheduledAttention{.dense_below = -1}; },
     "attention.schedule.dense_below: must be in [0, 1073741824], got -1"},
    {[](Request& r) {
       auto tiles = std::make_shared<Schedule>();
       tiles->selection.family = Family::kTile;
       r.attention = ScheduledAttention{.schedule = tiles, .ratio = 0.5};
     },
     "attention.schedule.ratio: the schedule is of family tile, which has no ratio"},
};

void expect_refused(const Request& request, const Fault& fault) {
  const absl::Status status = validate(request, kModel);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << fault.message;
  EXPECT_EQ(message_of(status), fault.message);
  const Refusal refusal = refusal_of(status).value_or(Refusal{});
  EXPECT_EQ(refusal.reason, fault.reason);
  EXPECT_EQ(refusal.field, field_in(fault.message));
  EXPECT_EQ(refusal.field + ": " + description_of(status, refusal), fault.message);
}

TEST(Validate, RefusesEachFault) {
  for (const Fault& fault : kGenerateFaults) {
    Request request = generation();
    fault.make(request);
    expect_refused(request, fault);
  }
  for (const Fault& fault : kScoreFaults) {
    Request request = scoring();
    fault.make(request);
    expect_refused(request, fault);
  }
}

TEST(Validate, AScheduleThatIsAskedForMustBeThere) {
  Request request = generation();
  request.attention = ScheduledAttention{};
  const absl::Status status = validate(request, kModel);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(message_of(status), "attention.schedule: no schedule is active");
  EXPECT_EQ(refusal_of(status).value_or(Refusal{}).reason, reason::kNoSchedule);
}

TEST(Refusals, CarryEverythingThroughAStatus) {
  const Refusal sent{.reason = reason::kQueueFull,
                     .field = "f",
                     .subject = "a: b",
                     .remedy = "wait\n3:abc",
                     .retry_after = absl::Milliseconds(1500),
                     .details = {{"limit", "7"}, {"", std::string("\0\xff:", 3)}}};
  const auto got = refusal_of(refuse(absl::StatusCode::kResourceExhausted, "f: full", sent));
  ASSERT_TRUE(got.has_value());
  EXPECT_EQ(got->reason, sent.reason);
  EXPECT_EQ(got->field, sent.field);
  EXPECT_EQ(got->subject, sent.subject);
  EXPECT_EQ(got->remedy, sent.remedy);
  EXPECT_EQ(got->retry_after, sent.retry_after);
  EXPECT_EQ(got->details, sent.details);
  EXPECT_FALSE(refusal_of(absl::InternalError("x")).has_value());
}

TEST(Refusals, FieldsGoBelowAPrefix) {
  EXPECT_EQ(message_of(below_field("chat", absl::InvalidArgumentError("messages[2].role: what"))),
            "chat.messages[2].role: what");
  EXPECT_EQ(message_of(below_field("chat", absl::InvalidArgumentError("not UTF-8: byte 3"))),
            "chat: not UTF-8: byte 3");
  EXPECT_EQ(below_field("chat", absl::InternalError("x: y")), absl::InternalError("x: y"));
}

}  // namespace
}  // namespace kascade
