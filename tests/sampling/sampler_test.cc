// Drawing tokens: distributions by chi-square with fixed seeds, each filter and penalty alone, the
// model's own figures. Parameters that are wrong on purpose are in runtime/request_validate_test.cc.
#include "engine/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kDraws = 50'000;

struct Context {
  std::vector<Token> prompt{};
  std::vector<Token> generated{};
};

ScoredToken drawn(const std::vector<float>& logits, const Generate& params,
                  const Context& context = {}, uint64_t step = 0) {
  const auto token = sample(logits, params, context.prompt, context.generated, step);
  EXPECT_TRUE(token.ok()) << token.status();
  return token.ok() ? *token : ScoredToken{.token = -1};
}

Generate greedy() { return {.sampling = {.temperature = 0}}; }

std::vector<int> histogram(const std::vector<float>& logits, const Generate& params,
                           const Context& context = {}) {
  std::vector<int> counts(logits.size(), 0);
  for (int step = 0; step < kDraws; ++step) ++counts[drawn(logits, params, context, step).token];
  return counts;
}

std::vector<double> softmax(const std::vector<float>& logits, double temperature = 1) {
  std::vector<double> shares;
  for (const float logit : logits) shares.push_back(std::exp(logit / temperature));
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

std::vector<double> renormalized(std::vector<double> shares, const std::set<Token>& kept) {
  double sum = 0;
  for (const Token token : kept) sum += shares[token];
  for (size_t token = 0; token < shares.size(); ++token) {
    shares[token] = kept.contains(static_cast<Token>(token)) ? shares[token] / sum : 0;
  }
  return shares;
}

// Pearson's statistic against the 99.99 % quantile of chi-square (Wilson and Hilferty's
// approximation); what has no share must not be drawn at all.
void expect_distribution(const std::vector<int>& counts, const std::vector<double>& shares) {
  double statistic = 0;
  int freedom = -1;
  for (size_t token = 0; token < counts.size(); ++token) {
    if (shares[token] == 0) {
      EXPECT_EQ(counts[token], 0) << "token " << token;
      continue;
    }
    const double expected = shares[token] * kDraws;
    ASSERT_GT(expected, 5);
    statistic += (counts[token] - expected) * (counts[token] - expected) / expected;
    ++freedom;
  }
  if (freedom < 1) return;
  const double spread = 2.0 / (9 * freedom);
  const double limit = freedom * std::pow(1 - spread + 3.719 * std::sqrt(spread), 3);
  EXPECT_LT(statistic, limit) << freedom << " degrees of freedom";
}

const std::vector<float> kLogits = {1.0f, -0.5f, 2.0f, 0.0f, 1.5f, -2.0f, 0.5f, 2.0f};

TEST(Distribution, FollowsTheSoftmaxOverSteps) {
  expect_distribution(histogram(kLogits, {}), softmax(kLogits));
}

TEST(Distribution, FollowsTheSoftmaxOverSeeds) {
  std::vector<int> counts(kLogits.size(), 0);
  for (int seed = 0; seed < kDraws; ++seed) {
    const Generate params{.sampling = {.seed = static_cast<uint64_t>(seed)}};
    ++counts[drawn(kLogits, params, {}, 3).token];
  }
  expect_distribution(counts, softmax(kLogits));
}

TEST(Distribution, FollowsTheTemperature) {
  for (const double temperature : {0.5, 2.0, 100.0}) {
    expect_distribution(histogram(kLogits, {.sampling = {.temperature = temperature}}),
                        softmax(kLogits, temperature));
  }
}

TEST(Distribution, RandomNumbersAreUniformAndUncorrelated) {
  std::vector<int> cells(256, 0);
  for (int step = 0; step < kDraws; ++step) {
    const auto first = static_cast<int>(uniform(1, step) * 16);
    const auto next = static_cast<int>(uniform(step % 2 == 0 ? 1 : 2, step + 1) * 16);
    ++cells[first * 16 + next];
  }
  expect_distribution(cells, std::vector<double>(256, 1.0 / 256));
  EXPECT_NE(uniform(0, 1), uniform(1, 0));
}

TEST(Filter, TopKKeepsTheBestWithTiesToTheLowest) {
  expect_distribution(histogram(kLogits, {.sampling = {.top_k = 3}}),
                      renormalized(softmax(kLogits), {2, 7, 4}));
  expect_distribution(histogram(kLogits, {.sampling = {.top_k = 1}}),
                      renormalized(softmax(kLogits), {2}));
  expect_distribution(histogram(kLogits, {.sampling = {.top_k = 100}}), softmax(kLogits));
}

TEST(Filter, TopKTellsNearlyEqualLogitsApart) {
  const std::vector<float> logits = {10.0f, std::nextafter(10.0f, 11.0f)};
  EXPECT_EQ(drawn(logits, {.sampling = {.temperature = 1000, .top_k = 1}}).token, 1);
}

TEST(Filter, TopPKeepsTheSmallestSetThatReachesIt) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f),
                                     std::log(0.3f)};
  const auto shares = softmax(logits);
  const std::pair<double, std::set<Token>> cases[] = {
      {1e-9, {1}},       {0.39, {1}},       {0.41, {1, 3}},      {0.69, {1, 3}},
      {0.71, {1, 2, 3}}, {0.89, {1, 2, 3}}, {0.91, {0, 1, 2, 3}}};
  for (const auto& [top_p, kept] : cases) {
    expect_distribution(histogram(logits, {.sampling = {.top_p = top_p}}),
                        renormalized(shares, kept));
  }
}

TEST(Filter, TopPCountsWhatTopKLeft) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f),
                                     std::log(0.3f)};
  // Of the two best, token 1 has 4/7 = 0.571.
  expect_distribution(histogram(logits, {.sampling = {.top_k = 2, .top_p = 0.57}}),
                      renormalized(softmax(logits), {1}));
  expect_distribution(histogram(logits, {.sampling = {.top_k = 2, .top_p = 0.58}}),
                      renormalized(softmax(logits), {1, 3}));
}

TEST(Filter, MinPIsRelativeToTheBest) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f),
                                     std::log(0.3f)};
  expect_distribution(histogram(logits, {.sampling = {.min_p = 0.49}}),
                      renormalized(softmax(logits), {1, 2, 3}));
  expect_distribution(histogram(logits, {.sampling = {.min_p = 0.51}}),
                      renormalized(softmax(logits), {1, 3}));
  expect_distribution(histogram(logits, {.sampling = {.min_p = 1}}),
                      renormalized(softmax(logits), {1}));
}

TEST(Filter, FollowsTheTemperatureThatComesFirst) {
  const std::vector<float> logits = {0, 1};  // at temperature 0.1 the worse has e⁻¹⁰
  const Generate cold{.sampling = {.temperature = 0.1, .min_p = 0.01}};
  expect_distribution(histogram(logits, cold), {0, 1});
  const Generate warm{.sampling = {.temperature = 1, .min_p = 0.01}};
  expect_distribution(histogram(logits, warm), softmax(logits));
}

TEST(Greedy, TakesTheBestWithTiesToTheLowest) {
  EXPECT_EQ(drawn(kLogits, greedy()).token, 2);
  EXPECT_EQ(drawn({0, 0, 0}, greedy()).token, 0);
  EXPECT_EQ(drawn({-3}, greedy()).token, 0);
}

TEST(Greedy, TinyTemperatureIsNearlyGreedy) {
  for (const double temperature : {1e-3, 1e-30, 1e-300, 5e-324}) {
    EXPECT_EQ(drawn({1, 3, 2}, {.sampling = {.temperature = temperature}}).token, 1);
  }
}

TEST(Determinism, SameSeedAndStepSameToken) {
  Generate params{.sampling = {.seed = 42}};
  std::vector<float> logits = kLogits;
  for (uint64_t step = 0; step < 100; ++step) {
    EXPECT_EQ(drawn(logits, params, {}, step).token, drawn(logits, params, {}, step).token);
  }
  EXPECT_EQ(logits, kLogits);
  int changed = 0;
  for (uint64_t step = 0; step < 100; ++step) {
    params.sampling.seed = 42;
    const Token token = drawn(logits, params, {}, step).token;
    params.sampling.seed = 43;
    changed += token != drawn(logits, params, {}, step).token;
  }
  EXPECT_GT(changed, 30);
}

TEST(Determinism, KnownRandomNumbers) {
  // These values may never change: they decide the tokens of stored seeds.
  EXPECT_DOUBLE_EQ(uniform(0, 0), 0.6524484863740322);
  EXPECT_DOUBLE_EQ(uniform(42, 7), 0.7347204584623639);
  EXPECT_DOUBLE_EQ(uniform(~uint64_t{0}, ~uint64_t{0}), 0.2668471864940366);
}

TEST(Penalty, RepetitionDividesPositiveAndMultipliesNegative) {
  Generate params = greedy();
  params.sampling.repetition_penalty = 2;
  EXPECT_EQ(drawn({3, 2}, params, {.prompt = {0}}).token, 1);  // 1.5 < 2
  EXPECT_EQ(drawn({3, 2}, params, {.generated = {0}}).token, 1);
  EXPECT_EQ(drawn({3, 1}, params, {.prompt = {0}}).token, 0);          // 1.5 > 1
  EXPECT_EQ(drawn({-1, -1.5f}, params, {.prompt = {0}}).token, 1);     // -2 < -1.5
  EXPECT_EQ(drawn({3, 1}, params, {{0, 0, 0}, {0, 0}}).token, 0);      // once, not five times
  EXPECT_EQ(drawn({3, 2}, params, {.prompt = {-1, 2, 99}}).token, 0);  // unknown ids are ignored
}

TEST(Penalty, PresenceAndFrequencySeeGeneratedTokensOnly) {
  Generate presence = greedy();
  presence.sampling.presence_penalty = 1.5;
  EXPECT_EQ(drawn({3, 2}, presence, {.prompt = {0}}).token, 0);
  EXPECT_EQ(drawn({3, 2}, presence, {.generated = {0}}).token, 1);
  EXPECT_EQ(drawn({3, 1}, presence, {.generated = {0, 0, 0}}).token, 0);  // 1.5, once

  Generate frequency = greedy();
  frequency.sampling.frequency_penalty = 0.6;
  EXPECT_EQ(drawn({3, 2}, frequency, {.prompt = {0, 0, 0}}).token, 0);
  EXPECT_EQ(drawn({3, 2}, frequency, {.generated = {0}}).token, 0);
  EXPECT_EQ(drawn({3, 2}, frequency, {.generated = {0, 0}}).token, 1);

  frequency.sampling.frequency_penalty = -2;  // encourages
  EXPECT_EQ(drawn({3, 2}, frequency, {.generated = {1}}).token, 1);
}

TEST(Penalty, OrderIsBiasThenRepetitionThenPresence) {
  Generate params = greedy();
  params.sampling = {
      .temperature = 0, .repetition_penalty = 2, .presence_penalty = 1, .logit_bias = {{0, 4.0f}}};
  // (2 + 4) / 2 − 1 = 2; any other order gives 1.5, 2.5 … or 4.
  EXPECT_EQ(drawn({2, 1.99f}, params, {.generated = {0}}).token, 0);
  EXPECT_EQ(drawn({2, 2.01f}, params, {.generated = {0}}).token, 1);
}

TEST(Penalty, ExtremesStayFinite) {
  Generate params;
  params.sampling.repetition_penalty = 1e-300;
  EXPECT_EQ(drawn({1, 2}, params, {.prompt = {0}}).token, 0);
  params.sampling.repetition_penalty = 1e300;
  EXPECT_EQ(drawn({-1, -2}, params, {.prompt = {0}}).token, 1);
  EXPECT_EQ(drawn({-1, -2}, params, {.prompt = {0, 1}}).token, drawn({0, 0}, {}).token);
}

TEST(Bias, MovesTheChoiceButNotTheReport) {
  Generate params = greedy();
  params.sampling.logit_bias = {{1, 100.0f}};
  params.want_logprobs = true;
  const ScoredToken token = drawn({3, 2, 1}, params);
  EXPECT_EQ(token.token, 1);
  EXPECT_EQ(token.rank, 2);
  EXPECT_FALSE(token.is_top1);
  EXPECT_NEAR(token.logprob, std::log(softmax({3, 2, 1})[1]), 1e-6);
}

TEST(Ban, StopTokensBeforeMinNewTokens) {
  Generate params = greedy();
  params.stop_tokens = {2, 7};
  EXPECT_EQ(drawn(kLogits, params).token, 2);
  params.min_new_tokens = 2;
  EXPECT_EQ(drawn(kLogits, params).token, 4);
  EXPECT_EQ(drawn(kLogits, params, {.generated = {1}}).token, 4);
  EXPECT_EQ(drawn(kLogits, params, {.generated = {1, 1}}).token, 2);
  params.sampling.temperature = 1;
  expect_distribution(histogram(kLogits, params),
                      renormalized(softmax(kLogits), {0, 1, 3, 4, 5, 6}));
  params.sampling.logit_bias = {{2, 100.0f}};  // a bias cannot lift a ban
  EXPECT_NE(drawn(kLogits, params).token, 2);
}

TEST(Ban, OfEverythingFallsBackToTheModelsBest) {
  Generate params{
      .sampling = {.logit_bias = {{0, 50.0f}}}, .min_new_tokens = 1, .stop_tokens = {0, 1, 2}};
  EXPECT_EQ(drawn({1, 3, 2}, params).token, 1);
}

TEST(Report, LogprobsSumToOne) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 5);
  std::vector<float> logits(20);
  for (float& logit : logits) logit = normal(random);
  Generate params;
  params.top_logprobs = 20;
  const ScoredToken token = drawn(logits, params);
  ASSERT_EQ(token.top.size(), 20u);
  double sum = 0;
  for (const Candidate& entry : token.top) {
    sum += std::exp(static_cast<double>(entry.logprob));
    EXPECT_NEAR(entry.logprob, std::log(softmax(logits)[entry.token]), 1e-5);
  }
  EXPECT_NEAR(sum, 1, 1e-6);
  EXPECT_TRUE(std::ranges::is_sorted(token.top, std::greater{}, &Candidate::logprob));
  EXPECT_EQ(token.top[token.rank - 1].token, token.token);
  EXPECT_EQ(token.top[token.rank - 1].logprob, token.logprob);
}

TEST(Report, LargeLogitsDoNotOverflow) {
  Generate params = greedy();
  params.want_logprobs = true;
  EXPECT_NEAR(drawn({1e4f, 1e4f}, params).logprob, -std::log(2.0), 1e-6);
  EXPECT_EQ(drawn({3e38f, -3e38f}, params).logprob, 0);
  EXPECT_EQ(drawn({3e38f, -3e38f}, {}).token, 0);
}

TEST(Report, RanksAndTopOrderTiesByIdAndOnlyOnRequest) {
  Generate params;
  params.top_logprobs = 4;
  const ScoredToken token = drawn(kLogits, params);
  std::vector<Token> order;
  for (const Candidate& entry : token.top) order.push_back(entry.token);
  EXPECT_THAT(order, ElementsAre(2, 7, 4, 0));

  params.top_logprobs = 0;
  EXPECT_EQ(drawn(kLogits, params).rank, 0);
  EXPECT_TRUE(drawn(kLogits, params).top.empty());
  EXPECT_TRUE(std::isnan(drawn(kLogits, params).logprob));
  params.want_logprobs = true;
  const int32_t ranks[] = {4, 7, 1, 6, 3, 8, 5, 2};
  for (Token id = 0; id < 8; ++id) {
    params.sampling.logit_bias = {{id, 100.0f}};
    const ScoredToken forced = drawn(kLogits, params);
    EXPECT_EQ(forced.token, id);
    EXPECT_EQ(forced.rank, ranks[id]);
    EXPECT_EQ(forced.is_top1, id == 2);
  }
}

TEST(Report, LargeVocabulary) {
  std::vector<float> logits(128'256, 0.0f);
  logits[77'777] = 20;
  for (const Sampling& sampling : {Sampling{}, {.top_k = 50}, {.top_p = 0.9}, {.min_p = 0.05}}) {
    EXPECT_EQ(drawn(logits, {.sampling = sampling}).token, 77'777);
  }
}

TEST(Errors, NonFiniteLogitsNameTheToken) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {kInfinity, -kInfinity, std::nanf("")}) {
    std::vector<float> logits = kLogits;
    logits[5] = bad;
    const absl::Status status = sample(logits, greedy(), {}, {}, 0).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()), HasSubstr("token 5"));
  }
  EXPECT_EQ(sample({}, greedy(), {}, {}, 0).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace kascade
