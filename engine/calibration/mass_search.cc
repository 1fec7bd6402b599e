#include "engine/calibration/mass_search.h"

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "engine/base/check.h"
#include "engine/calibration/calibration.h"

namespace kascade {
namespace {

// Closer together where little attention is left out: the loss grows about as fast as what is left
// out.
constexpr double kMasses[] = {kLeastMass, 0.7,   0.8,  0.85, 0.9,  0.93,
                              kUsualMass, 0.965, 0.98, 0.99, 0.995};
constexpr size_t kFirst = 6;
static_assert(kMasses[kFirst] == kUsualMass);

}  // namespace

absl::StatusOr<std::optional<double>> least_passing_mass(
    double least, const std::function<absl::StatusOr<bool>(double)>& passes) {
  KASCADE_CHECK(least <= kUsualMass);
  size_t low = static_cast<size_t>(std::ranges::lower_bound(kMasses, least) - kMasses);
  size_t high = std::size(kMasses);  // none passes
  for (size_t next = kFirst; low < high; next = (low + high) / 2) {
    const auto passed = passes(kMasses[next]);
    if (!passed.ok()) return passed.status();
    *passed ? high = next : low = next + 1;
  }
  if (high == std::size(kMasses)) return std::nullopt;
  return kMasses[high];
}

}  // namespace kascade
