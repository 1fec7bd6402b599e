#include "engine/quality/perplexity.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace kascade {
namespace {

TEST(Perplexity, IsTheExponentialOfTheMeanLoss) {
  // Four tokens of probability 1/8.
  EXPECT_DOUBLE_EQ(perplexity(mean_nll(4 * std::log(8.0), 4)), 8);
  EXPECT_EQ(perplexity(mean_nll(0, 3)), 1);
}

TEST(Perplexity, IsInfiniteWhereATokenIsImpossible) {
  EXPECT_TRUE(std::isinf(perplexity(mean_nll(std::numeric_limits<double>::infinity(), 2))));
}

TEST(SuspectModel, IsLessThanOneNatBetterThanGuessing) {
  const double limit = std::log(4096.0) - 1;
  EXPECT_FALSE(is_suspect(limit, 4096));
  EXPECT_TRUE(is_suspect(std::nextafter(limit, 10.0), 4096));
  EXPECT_FALSE(is_suspect(2, 4096));
  EXPECT_TRUE(is_suspect(2, 16));
}

TEST(SuspectModel, IsOneWhoseLossIsNotANumber) {
  EXPECT_TRUE(is_suspect(std::nan(""), 4096));
  EXPECT_TRUE(is_suspect(std::numeric_limits<double>::infinity(), 4096));
}

}  // namespace
}  // namespace kascade
