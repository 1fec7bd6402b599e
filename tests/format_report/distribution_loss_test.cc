// Tests the distance of two distributions against values computed by hand, and the sums over
// tokens.
#include "tools/format_report/distribution_loss.h"

#include <cmath>
#include <vector>

#include "engine/quality/percentile.h"
#include "gtest/gtest.h"

namespace kascade::format_report {
namespace {

// Logits of these probabilities, shifted by any constant.
std::vector<float> logits_of(const std::vector<double>& probabilities, double shift) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + shift));
  return logits;
}

TEST(DistributionLoss, IsTheKlDivergenceInTheRightDirection) {
  DistributionComparison comparison;
  const auto first = logits_of({0.5, 0.25, 0.25}, 3), second = logits_of({0.25, 0.5, 0.25}, -40);
  const TokenLoss loss = comparison.compare(first, second, 1);
  EXPECT_NEAR(loss.kl, 0.5 * std::log(2) - 0.25 * std::log(2), 1e-5);
  EXPECT_NEAR(loss.first_logprob, std::log(0.25), 1e-6);
  EXPECT_NEAR(loss.second_logprob, std::log(0.5), 1e-5);
  EXPECT_FALSE(loss.same_top1);
  const auto third = logits_of({0.75, 0.125, 0.125}, 0);
  const TokenLoss forward = comparison.compare(first, third, 0);
  const TokenLoss backward = comparison.compare(third, first, 0);
  EXPECT_NEAR(forward.kl, 0.5 * std::log(0.5 / 0.75) + 0.5 * std::log(2), 1e-6);
  EXPECT_NEAR(backward.kl, 0.75 * std::log(0.75 / 0.5) + 0.25 * std::log(0.5), 1e-6);
  EXPECT_TRUE(forward.same_top1);
}

TEST(DistributionLoss, EqualDistributionsAreAtZeroWhateverTheirShift) {
  DistributionComparison comparison;
  std::vector<float> first, second;
  for (int i = 0; i < 5000; ++i) {
    first.push_back(std::sin(static_cast<float>(i)) * 8);
    second.push_back(first.back() + 64);
  }
  const TokenLoss same = comparison.compare(first, first, 7);
  EXPECT_EQ(same.kl, 0);
  EXPECT_EQ(same.first_logprob, same.second_logprob);
  EXPECT_TRUE(same.same_top1);
  // The shift rounds the second logits to multiples of 2⁻¹⁷.
  EXPECT_NEAR(comparison.compare(first, second, 7).kl, 0, 1e-9);
}

TEST(DistributionLoss, ASmallDifferenceIsNotLostInRounding) {
  // Moving d from one of two equal logits to the other: KL = log cosh d ≈ d² ÷ 2.
  DistributionComparison comparison;
  const std::vector<float> first = {0, 0}, second = {1.0f / 8192, -1.0f / 8192};
  EXPECT_NEAR(comparison.compare(first, second, 0).kl, std::log(std::cosh(1.0 / 8192)), 1e-13);
}

TEST(LossSums, AddUpOverTokensAndTexts) {
  LossSums one, two;
  one.add({.first_logprob = -1, .second_logprob = -1.5, .kl = 0.25, .same_top1 = true});
  two.add({.first_logprob = -2, .second_logprob = -1.75, .kl = 0.5, .same_top1 = false});
  two.add({.first_logprob = -3, .second_logprob = -3.5, .kl = 0.125, .same_top1 = true});
  one.add(two);
  EXPECT_EQ(one.sums.tokens, 3);
  EXPECT_EQ(one.sums.first_nll, 6);
  EXPECT_EQ(one.sums.second_nll, 6.75);
  EXPECT_DOUBLE_EQ(nll_rise(one.sums).mean, 0.25);
  // Differences 0.5, −0.25, 0.5: variance 0.1875, divided by 3 tokens.
  EXPECT_DOUBLE_EQ(nll_rise(one.sums).error, 0.25);
  EXPECT_DOUBLE_EQ(mean_kl(one.sums), 0.875 / 3);
  EXPECT_DOUBLE_EQ(one.kl_squares, 0.0625 + 0.25 + 0.015625);
  EXPECT_DOUBLE_EQ(same_top1_ratio(one.sums), 2.0 / 3);
  EXPECT_EQ(percentile(one.kl, 50), 0.25);
}

}  // namespace
}  // namespace kascade::format_report
