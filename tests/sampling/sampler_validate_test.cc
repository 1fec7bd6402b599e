// Generation parameters at and beyond their limits.
#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "engine/sampling/sampler.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using ::testing::HasSubstr;

TEST(Validate, AcceptsLimits) {
  EXPECT_EQ(validate(Generate{}, 10), absl::OkStatus());
  Generate params{.sampling = {.temperature = 0,
                               .top_k = 1 << 30,
                               .top_p = 1e-9,
                               .min_p = 1,
                               .repetition_penalty = 1e-9,
                               .presence_penalty = -2,
                               .frequency_penalty = 2,
                               .logit_bias = {{0, -100}, {9, 100}}},
                  .max_new_tokens = 1,
                  .min_new_tokens = 1,
                  .stop_tokens = {0, 9, 9},
                  .top_logprobs = 20};
  EXPECT_EQ(validate(params, 10), absl::OkStatus());
}

struct Fault {
  std::function<void(Generate&)> make;
  const char* message;
};

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinite = std::numeric_limits<double>::infinity();

const Fault kFaults[] = {
    {[](Generate& g) { g.sampling.temperature = -0.1; }, "temperature must be ≥ 0 and finite, is"},
    {[](Generate& g) { g.sampling.temperature = kNan; }, "is nan"},
    {[](Generate& g) { g.sampling.temperature = kInfinite; }, "is inf"},
    {[](Generate& g) { g.sampling.top_k = -1; }, "top_k must be ≥ 0, is -1"},
    {[](Generate& g) { g.sampling.top_p = 0; }, "top_p must be in (0, 1], is 0"},
    {[](Generate& g) { g.sampling.top_p = 1.01; }, "top_p must be in (0, 1], is 1.01"},
    {[](Generate& g) { g.sampling.top_p = kNan; }, "top_p must be in (0, 1], is nan"},
    {[](Generate& g) { g.sampling.min_p = -0.1; }, "min_p must be in [0, 1], is -0.1"},
    {[](Generate& g) { g.sampling.min_p = 2; }, "min_p must be in [0, 1], is 2"},
    {[](Generate& g) { g.sampling.repetition_penalty = 0; }, "repetition_penalty must be > 0"},
    {[](Generate& g) { g.sampling.repetition_penalty = kNan; }, "repetition_penalty"},
    {[](Generate& g) { g.sampling.presence_penalty = 2.5; },
     "presence_penalty must be in [-2, 2], is 2.5"},
    {[](Generate& g) { g.sampling.frequency_penalty = -3; }, "frequency_penalty must be in [-2"},
    {[](Generate& g) { g.sampling.frequency_penalty = kNan; }, "frequency_penalty"},
    {[](Generate& g) { g.sampling.logit_bias = {{1, 1.0f}, {10, 1.0f}}; },
     "logit_bias[1].token must be in [0, 9], is 10"},
    {[](Generate& g) { g.sampling.logit_bias = {{-1, 1.0f}}; }, "logit_bias[0].token"},
    {[](Generate& g) { g.sampling.logit_bias = {{1, 101.0f}}; },
     "logit_bias[0].bias must be in [-100, 100], is 101"},
    {[](Generate& g) { g.sampling.logit_bias = {{1, std::nanf("")}}; }, "logit_bias[0].bias"},
    {[](Generate& g) { g.sampling.logit_bias = {{3, 1.0f}, {2, 1.0f}, {3, 2.0f}}; },
     "logit_bias must be one per token, is twice for token 3"},
    {[](Generate& g) { g.sampling.logit_bias.resize(1025); },
     "logit_bias must be of at most 1024 tokens, is of 1025"},
    {[](Generate& g) { g.stop_tokens = {1, 10}; }, "stop_tokens[1] must be in [0, 9], is 10"},
    {[](Generate& g) { g.stop_tokens = {-1}; }, "stop_tokens[0]"},
    {[](Generate& g) { g.stop_tokens.resize(513); }, "stop_tokens must be at most 512 tokens"},
    {[](Generate& g) { g.max_new_tokens = 0; }, "max_new_tokens must be ≥ 1, is 0"},
    {[](Generate& g) { g.min_new_tokens = -1; }, "min_new_tokens must be in [0, 256], is -1"},
    {[](Generate& g) { g.min_new_tokens = 257; }, "min_new_tokens must be in [0, 256], is 257"},
    {[](Generate& g) { g.top_logprobs = 21; }, "top_logprobs must be in [0, 20], is 21"},
    {[](Generate& g) { g.top_logprobs = -1; }, "top_logprobs must be in [0, 20], is -1"},
};

TEST(Validate, RefusesEachFault) {
  for (const Fault& fault : kFaults) {
    Generate params;
    fault.make(params);
    const absl::Status status = validate(params, 10);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << fault.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(fault.message));
  }
}

}  // namespace
}  // namespace kascade
