#include "engine/quality/doubt.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Sums of a run that predicts `tokens` tokens with `nll` each, and counting with `counts` each.
DoubtSums sums_of(int64_t tokens, double nll, double counts) {
  DoubtSums sums;
  for (int64_t i = 0; i < tokens; ++i) sums.add(i, nll, counts);
  return sums;
}

TEST(TokenCounts, GivesTheFirstTokenTheProbabilityOfGuessing) {
  EXPECT_DOUBLE_EQ(TokenCounts(8).add(3), std::log(8.0));
}

TEST(TokenCounts, SharesProbabilityBetweenSeenAndUnseenTokens) {
  TokenCounts counts(8);
  counts.add(3);
  // One token of one id: 1/2 for it, 1/2 over the seven others.
  EXPECT_DOUBLE_EQ(counts.add(3), std::log(2.0));
  // Two tokens of one id: 1/3 over the seven others.
  EXPECT_DOUBLE_EQ(counts.add(5), std::log(21.0));
  // Three tokens of two ids.
  EXPECT_DOUBLE_EQ(counts.add(3), std::log(5.0 / 2));
}

TEST(TokenCounts, IsADistributionAtEveryStep) {
  for (const int seen : {0, 1, 2, 3, 7}) {
    double sum = 0;
    for (int32_t next = 0; next < 5; ++next) {
      TokenCounts counts(5);
      for (int i = 0; i < seen; ++i) counts.add(i * i % 5);
      sum += std::exp(-counts.add(next));
    }
    EXPECT_NEAR(sum, 1, 1e-12) << seen;
  }
}

TEST(Doubts, AreNoneForAUsualRun) { EXPECT_THAT(doubts(3, 4000, sums_of(4000, 3, 6)), IsEmpty()); }

TEST(Doubts, HighPerplexityIsUnusual) {
  const double limit = std::log(100.0);
  EXPECT_THAT(doubts(limit - 0.01, 2000, sums_of(2000, limit - 0.01, 7)), IsEmpty());
  EXPECT_THAT(doubts(limit + 0.01, 2000, sums_of(2000, limit + 0.01, 7)),
              ElementsAre(HasSubstr("above 100")));
}

TEST(Doubts, APerplexityThatIsNotANumberIsUnusual) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(doubts(nan, 10, sums_of(10, nan, 5)), ElementsAre(HasSubstr("above 100")));
}

TEST(Doubts, AModelMustBeBetterThanCounting) {
  EXPECT_THAT(doubts(3.5, 1000, sums_of(1000, 3.5, 3.4)),
              ElementsAre(HasSubstr("earlier tokens of the same text")));
  // One word repeated: both are near 0.
  EXPECT_THAT(doubts(0.05, 1000, sums_of(1000, 0.05, 0.03)), IsEmpty());
}

TEST(Doubts, ContextMustHelp) {
  const auto run = [](double later, int64_t tokens) {
    DoubtSums sums;
    for (int64_t i = 0; i < tokens; ++i) sums.add(i, (i < 512 ? 3 : later) + (i % 2) * 0.2, 6);
    return doubts(3.5, tokens, sums);
  };
  EXPECT_THAT(run(3.5, 4000), ElementsAre(HasSubstr("rope_theta")));
  EXPECT_THAT(run(3.2, 4000), IsEmpty());  // less than a quarter of a nat
  EXPECT_THAT(run(2.5, 4000), IsEmpty());  // it helps
  EXPECT_THAT(run(3.5, 600), IsEmpty());   // too few tokens
}

TEST(Doubts, ADifferenceByChanceIsNone) {
  DoubtSums sums;
  for (int64_t i = 0; i < 800; ++i) sums.add(i, i < 512 ? 3 * (i % 2) : 3.4 * (i % 2), 6);
  EXPECT_THAT(doubts(1.6, 800, sums), IsEmpty());
}

TEST(DoubtSums, OfTwoTextsAdd) {
  DoubtSums sums = sums_of(700, 2, 5);
  sums += sums_of(300, 3, 4);
  EXPECT_EQ(sums.short_context.tokens, 2 * 192);
  EXPECT_EQ(sums.long_context.tokens, 700 - 512);
  EXPECT_DOUBLE_EQ(sums.counts_nll, 700 * 5 + 300 * 4);
  EXPECT_DOUBLE_EQ(sums.short_context.nll, 192 * 2 + 192 * 3);
  EXPECT_DOUBLE_EQ(sums.long_context.nll_squares, (700 - 512) * 4);
}

}  // namespace
}  // namespace kascade
