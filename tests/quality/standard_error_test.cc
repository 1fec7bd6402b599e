#include "engine/quality/standard_error.h"

#include "gtest/gtest.h"

namespace kascade {
namespace {

TEST(StandardError, OfAFewValues) {
  // 1, 2, 3, 4: the variance is 5/3, so √(5/12).
  EXPECT_NEAR(standard_error(10, 30, 4), 0.6454972243679028, 1e-15);
  EXPECT_NEAR(standard_error(-10, 30, 4), 0.6454972243679028, 1e-15);
}

TEST(StandardError, TakesNoRootOfANegativeVariance) {
  EXPECT_EQ(standard_error(0.3, 0.03 - 1e-18, 3), 0);  // 0.1 three times, rounded down
}

TEST(StandardError, OneValueHasNone) {
  EXPECT_EQ(standard_error(7, 49, 1), 0);
  EXPECT_EQ(standard_error(0, 0, 0), 0);
}

}  // namespace
}  // namespace kascade
