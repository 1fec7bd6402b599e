// Means, errors and percentiles of scored tokens.
#include "server/core/score_totals.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace kascade::core {
namespace {

TEST(ScoreTotals, GiveMeansErrorsAndSuspicion) {
  ScoreTotals totals;
  totals.words = 3;
  totals.bytes = 10;
  for (const float logprob : {-1.0f, -2.0f, -3.0f}) {
    totals.add({.token = 1, .logprob = logprob, .is_top1 = logprob > -1.5f},
               {.second = {.logprob = logprob - 0.5f}, .kl = 0.1f, .same_top1 = true});
  }
  const RunFigures run = figures_of(totals, /*vocab=*/1000);
  std::vector<float> differences{-0.25f, -0.75f, -0.5f};
  const ComparisonFigures comparison = compare(totals, run.suspect, differences);
  EXPECT_DOUBLE_EQ(run.nll_sum, 6);
  EXPECT_DOUBLE_EQ(run.mean_nll, 2);
  EXPECT_DOUBLE_EQ(run.perplexity, std::exp(2.0));
  EXPECT_NEAR(run.mean_nll_error, 1 / std::sqrt(3.0), 1e-12);
  EXPECT_NEAR(run.bits_per_byte.value_or(0), 0.6 / std::log(2.0), 1e-12);
  EXPECT_NEAR(run.perplexity_error, std::exp(2.0) / std::sqrt(3.0), 1e-12);
  EXPECT_NEAR(run.word_perplexity.value_or(0), std::exp(2.0), 1e-12);
  EXPECT_NEAR(run.byte_perplexity.value_or(0), std::exp(0.6), 1e-12);
  EXPECT_NEAR(run.top1_ratio, 1.0 / 3, 1e-12);
  EXPECT_FALSE(run.suspect);
  EXPECT_NEAR(comparison.degradation_percent.value_or(0), (std::exp(0.5) - 1) * 100, 1e-9);
  EXPECT_NEAR(comparison.mean_kl, 0.1, 1e-7);
  EXPECT_NEAR(comparison.max_difference, 0.5, 1e-7);
  EXPECT_NEAR(comparison.mean_difference, -0.5, 1e-12);
  EXPECT_NEAR(comparison.degradation_percent_error.value_or(1), 0, 1e-5);
  EXPECT_NEAR(comparison.second_mean_nll_error, 1 / std::sqrt(3.0), 1e-12);
  const auto& percentiles = comparison.percentiles;
  EXPECT_DOUBLE_EQ(percentiles[4].percent, 50);
  EXPECT_DOUBLE_EQ(percentiles[4].difference, -0.5);
  EXPECT_DOUBLE_EQ(percentiles[2].difference, -0.725);  // a tenth of the way up

  const RunFigures suspect = figures_of(totals, /*vocab=*/20);  // ln 20 − 1 < 2
  EXPECT_TRUE(suspect.suspect);
  EXPECT_FALSE(suspect_causes().empty());
  EXPECT_FALSE(compare(totals, suspect.suspect, differences).degradation_percent.has_value());
}

// Differences of 0.25 and 0.75 nats, and KLs of 0.1 and 0.3: standard errors of 0.25 and 0.1.
TEST(ScoreTotals, ErrorsOfAComparisonArePaired) {
  ScoreTotals totals;
  totals.add({.token = 1, .logprob = -1}, {.second = {.logprob = -1.25f}, .kl = 0.1f});
  totals.add({.token = 1, .logprob = -5}, {.second = {.logprob = -5.75f}, .kl = 0.3f});
  std::vector<float> differences{-0.25f, -0.75f};
  const ComparisonFigures comparison = compare(totals, /*suspect=*/false, differences);
  EXPECT_NEAR(comparison.mean_difference, -0.5, 1e-12);
  EXPECT_NEAR(comparison.mean_difference_error, 0.25, 1e-12);
  EXPECT_NEAR(comparison.degradation_percent_error.value_or(0), 25 * std::exp(0.5), 1e-9);
  EXPECT_NEAR(comparison.mean_kl_error, 0.1, 1e-7);
  EXPECT_NEAR(comparison.second_mean_nll_error, 2.25, 1e-12);
  EXPECT_NEAR(comparison.second_perplexity_error, 2.25 * std::exp(3.5), 1e-9);
}

}  // namespace
}  // namespace kascade::core
