// Tests the sums of a softmax over rows of unusual lengths against the standard library.
#include "engine/base/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kascade {
namespace {

std::vector<float> random_row(size_t size, float deviation) {
  std::mt19937 random(static_cast<uint32_t>(size));
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> row(size);
  for (float& value : row) value = normal(random);
  return row;
}

const size_t kSizes[] = {1, 2, 15, 16, 17, 511, 512, 513, 528, 4099, 128256};

TEST(Softmax, SumsExponentials) {
  for (const size_t size : kSizes) {
    for (const float deviation : {0.1f, 3.0f, 60.0f}) {
      const std::vector<float> row = random_row(size, deviation);
      const float max = *std::ranges::max_element(row);
      double exact = 0;
      for (const float value : row) exact += std::exp(static_cast<double>(value) - max);
      // 3 ulp of a term, half an ulp of value − max in its exponent (terms beyond e⁻⁸⁷ are 0), and
      // the 32 additions in f32 of each block.
      const double farthest = std::min(87.0, double{max} - *std::ranges::min_element(row));
      const double relative = (6 + farthest + 32) * 0x1p-24;
      EXPECT_NEAR(exponential_sum(row, max), exact, relative * exact) << size << ", " << deviation;
    }
  }
}

TEST(Softmax, EndsOfTheRange) {
  EXPECT_EQ(exponential_sum(std::vector<float>{}, 0), 0);
  EXPECT_EQ(exponential_sum(std::vector<float>{5}, 5), 1);
  EXPECT_EQ(exponential_sum(std::vector<float>{5, -1e30f, -83}, 5), 1);
  EXPECT_EQ(exponential_sum(std::vector<float>(40, -200.0f), 0), 0);
}

TEST(Softmax, FindsTheLargest) {
  for (const size_t size : kSizes) {
    std::vector<float> row = random_row(size, 1);
    EXPECT_EQ(largest_of(row), std::ranges::max_element(row) - row.begin());
    row.back() = 100;
    EXPECT_EQ(largest_of(row), static_cast<int64_t>(size) - 1);
    row.front() = 100;
    EXPECT_EQ(largest_of(row), 0) << "the first of equals";
  }
}

TEST(Softmax, FindsWhatIsNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const size_t size : kSizes) {
    std::vector<float> row = random_row(size, 1);
    EXPECT_EQ(first_not_finite(row), -1);
    for (const float value : {kInfinity, -kInfinity, std::nanf("")}) {
      const size_t place = size / 2;
      row.back() = value;
      row[place] = value;
      EXPECT_EQ(first_not_finite(row), static_cast<int64_t>(place));
    }
  }
}

}  // namespace
}  // namespace kascade
