// Exact percentiles of values that are all in memory.
#ifndef KASCADE_ENGINE_QUALITY_PERCENTILE_H_
#define KASCADE_ENGINE_QUALITY_PERCENTILE_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

namespace kascade {

// The value below which `percent`, in [0, 100], of the values lie, interpolated linearly between
// neighbours in order of size. There must be at least one value. Reorders `values`, but does not
// sort them: a million would hold up the engine's thread.
inline double percentile(std::span<float> values, double percent) {
  const double place = percent / 100 * static_cast<double>(values.size() - 1);
  const auto below = values.begin() + static_cast<ptrdiff_t>(place);
  std::nth_element(values.begin(), below, values.end());
  const double low = *below;
  const auto above = std::min_element(below + 1, values.end());
  if (above == values.end()) return low;
  return low + (place - std::floor(place)) * (double{*above} - low);
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_QUALITY_PERCENTILE_H_
