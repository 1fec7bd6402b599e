// The error of a mean, from sums that a stream of values leaves.
#ifndef KASCADE_ENGINE_QUALITY_STANDARD_ERROR_H_
#define KASCADE_ENGINE_QUALITY_STANDARD_ERROR_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace kascade {

// Of the mean of `count` independent values with this sum, and sum of squares; 0 below two values.
inline double standard_error(double sum, double squares, int64_t count) {
  if (count < 2) return 0;
  const auto n = static_cast<double>(count);
  const double variance = std::max(0.0, squares - sum * sum / n) / (n - 1);
  return std::sqrt(variance / n);
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_QUALITY_STANDARD_ERROR_H_
