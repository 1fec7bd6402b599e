#include "engine/quality/percentile.h"

#include <vector>

#include "gtest/gtest.h"

namespace kascade {
namespace {

TEST(Percentile, LiesBetweenNeighboursInOrderOfSize) {
  std::vector<float> values = {5, 1, 4, 2, 3};
  EXPECT_EQ(percentile(values, 0), 1);
  EXPECT_EQ(percentile(values, 50), 3);
  EXPECT_EQ(percentile(values, 100), 5);
  EXPECT_DOUBLE_EQ(percentile(values, 90), 4.6);
  std::vector<float> one = {7};
  EXPECT_EQ(percentile(one, 99), 7);
}

}  // namespace
}  // namespace kascade
