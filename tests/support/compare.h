// Compares matrices element by element, within bounds that follow from rounding.
//
// u is the unit roundoff of f32. A sum of n products computed in f32, in any order, has an error of
// at most n · u · Σ|products| (to first order); two such sums differ by at most twice that. Tests
// state their bound in these terms.
#ifndef KASCADE_TESTS_SUPPORT_COMPARE_H_
#define KASCADE_TESTS_SUPPORT_COMPARE_H_

#include <cmath>
#include <cstdint>
#include <string>

#include "engine/backend/tensor.h"
#include "gtest/gtest.h"

namespace kascade::testing {

constexpr double kUnit = 0x1p-24;       // u of f32
constexpr double kUnitBf16 = 0x1p-9;    // u of bf16
constexpr double kSmallest = 0x1p-126;  // smaller results may be flushed to 0

// Fails if an element is outside its bound and reports the one that is furthest outside. bound(row,
// col) must be ≥ 0; a NaN on either side fails.
template <typename Bound>
void expect_close(Tensor actual, Tensor expected, const Bound& bound, const std::string& what) {
  ASSERT_EQ(actual.rows, expected.rows) << what;
  ASSERT_EQ(actual.cols, expected.cols) << what;
  double worst = -1;
  int64_t worst_row = 0, worst_col = 0;
  for (int64_t row = 0; row < actual.rows; ++row) {
    for (int64_t col = 0; col < actual.cols; ++col) {
      const double a = actual.f32(row)[col], e = expected.f32(row)[col];
      const double excess = std::abs(a - e) / (bound(row, col) + kSmallest);
      if (excess <= worst) continue;
      worst = excess;
      worst_row = row;
      worst_col = col;
      if (std::isnan(excess)) break;
    }
    if (std::isnan(worst)) break;
  }
  EXPECT_LE(worst, 1.0) << what << ": worst element [" << worst_row << ", " << worst_col << "] is "
                        << actual.f32(worst_row)[worst_col] << ", expected "
                        << expected.f32(worst_row)[worst_col] << " within "
                        << bound(worst_row, worst_col);
}

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_COMPARE_H_
