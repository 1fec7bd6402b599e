// The standard error of a mean.
#ifndef KASCADE_ENGINE_QUALITY_STANDARD_ERROR_H_
#define KASCADE_ENGINE_QUALITY_STANDARD_ERROR_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace kascade {

// The standard error of the mean of `count` independent values, given their sum and the sum of
// their squares. It is 0 for fewer than two values.
inline double standard_error(double sum, double squares, int64_t count) {
  if (count < 2) return 0;
  const auto n = static_cast<double>(count);
  const double variance = std::max(0.0, squares - sum * sum / n) / (n - 1);
  return std::sqrt(variance / n);
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_QUALITY_STANDARD_ERROR_H_
