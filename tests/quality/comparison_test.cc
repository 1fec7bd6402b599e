// Statistics of a comparison against plain formulas over its tokens.
#include "engine/quality/comparison.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kascade {
namespace {

TEST(Comparison, StatisticsFollowTheirDefinitions) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  ComparisonSums sums;
  std::vector<double> rises;
  double first = 0, second = 0, kl = 0;
  int64_t same = 0;
  for (int32_t i = 0; i < 500; ++i) {
    const double a = -std::abs(normal(random)), b = a + 0.1 * normal(random);
    sums.add(a, b, 0.01 * i, i % 3 == 0);
    rises.push_back(a - b);
    first -= a;
    second -= b;
    kl += 0.01 * i;
    same += i % 3 == 0;
  }
  double mean = 0, variance = 0;
  for (const double rise : rises) mean += rise / 500;
  for (const double rise : rises) variance += (rise - mean) * (rise - mean) / 499;
  const double error = std::sqrt(variance / 500);

  EXPECT_EQ(sums.tokens, 500);
  EXPECT_EQ(sums.first_nll, first);
  EXPECT_EQ(sums.second_nll, second);
  EXPECT_EQ(mean_kl(sums), kl / 500);
  EXPECT_EQ(same_top1_ratio(sums), static_cast<double>(same) / 500);
  const PairedDifference rise = nll_rise(sums);
  EXPECT_NEAR(rise.mean, mean, 1e-12);
  EXPECT_NEAR(rise.error, error, 1e-12);
  EXPECT_NEAR(degradation_percent(rise), 100 * std::expm1(mean), 1e-10);
  EXPECT_NEAR(degradation_error_percent(rise), 100 * std::exp(mean) * error, 1e-10);
}

// The degradation is the ratio of the two perplexities, less 1.
TEST(Comparison, DegradationIsTheRiseOfPerplexity) {
  ComparisonSums sums;
  sums.add(-1, -1.5, 0, true);
  sums.add(-2, -1.7, 0, true);
  const double dense = perplexity(mean_nll(sums.first_nll, sums.tokens));
  const double sparse = perplexity(mean_nll(sums.second_nll, sums.tokens));
  EXPECT_NEAR(degradation_percent(nll_rise(sums)), 100 * (sparse / dense - 1), 1e-12);
}

TEST(Comparison, EqualRunsDoNotDiffer) {
  ComparisonSums sums;
  for (int32_t i = 0; i < 7; ++i) sums.add(-0.1 * i, -0.1 * i, 0, true);
  const PairedDifference rise = nll_rise(sums);
  EXPECT_EQ(rise.mean, 0);
  EXPECT_EQ(rise.error, 0);
  EXPECT_EQ(degradation_percent(rise), 0);
  EXPECT_EQ(degradation_error_percent(rise), 0);
  EXPECT_EQ(same_top1_ratio(sums), 1);
}

TEST(QualityCheck, TheLimitIsOnTheDegradationAndItsErrorTogether) {
  QualityFigures figures{.drops_keys = true,
                         .sparse_perplexity = 12,
                         .degradation_percent = 0.75,
                         .degradation_error_percent = 0.25};
  EXPECT_TRUE(passes_quality_check(figures, 1));
  EXPECT_FALSE(passes_quality_check(figures, std::nextafter(1.0, 0.0)));
  figures.degradation_percent = -0.5;  // better than dense
  EXPECT_TRUE(passes_quality_check(figures, 0));
}

TEST(QualityCheck, NothingPassesThatDropsNoKeyOrMeansNothing) {
  const QualityFigures good{.drops_keys = true, .sparse_perplexity = 12};
  ASSERT_TRUE(passes_quality_check(good, 1));
  QualityFigures figures = good;
  figures.drops_keys = false;
  EXPECT_FALSE(passes_quality_check(figures, 1));
  figures = good;
  figures.suspect = true;
  EXPECT_FALSE(passes_quality_check(figures, 1));
  figures = good;
  figures.sparse_perplexity = std::numeric_limits<double>::infinity();
  EXPECT_FALSE(passes_quality_check(figures, 1));
  figures = good;
  figures.degradation_percent = std::nan("");
  EXPECT_FALSE(passes_quality_check(figures, 1));
}

}  // namespace
}  // namespace kascade
