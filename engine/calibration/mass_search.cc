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
constexpr int32_t kMostForecasts = 2;

// The place of the least share that should pass if `mass` has a loss of `loss`.
size_t forecast(double mass, double loss) {
  const double most_left_out = (1 - mass) / loss;
  return static_cast<size_t>(std::ranges::lower_bound(kMasses, 1 - most_left_out) - kMasses);
}

}  // namespace

absl::StatusOr<std::optional<double>> least_passing_mass(
    double least, const std::function<absl::StatusOr<MassCheck>(double)>& check) {
  KASCADE_CHECK(least <= kUsualMass);
  auto low = static_cast<size_t>(std::ranges::lower_bound(kMasses, least) - kMasses);
  size_t high = std::size(kMasses);  // none passes
  int32_t forecasts = 0;
  for (size_t next = kFirst; low < high;) {
    const auto checked = check(kMasses[next]);
    if (!checked.ok()) return checked.status();
    const double mass = kMasses[next];
    checked->passed ? high = next : low = next + 1;
    // A loss that contradicts the verdict was not what decided.
    const bool tells = checked->loss > 0 && (checked->loss <= 1) == checked->passed;
    next = (low + high) / 2;
    if (tells && low < high && forecasts++ < kMostForecasts) {
      next = std::clamp(forecast(mass, checked->loss), low, high - 1);
    }
  }
  if (high == std::size(kMasses)) return std::nullopt;
  return kMasses[high];
}

}  // namespace kascade
