// The search of a calibration in which every layer selects for itself: of the shares of the
// attention that pass the quality check, it looks for the least, with which the fewest keys are
// read (docs/method.md, "The calibration procedure").
#ifndef KASCADE_ENGINE_CALIBRATION_MASS_SEARCH_H_
#define KASCADE_ENGINE_CALIBRATION_MASS_SEARCH_H_

#include <cstdint>
#include <functional>
#include <optional>

#include "absl/status/statusor.h"

namespace kascade {

constexpr int32_t kUsualMassChecks = 2;  // candidates of a search, about
constexpr double kLeastMass = 0.6;       // the least share that may be tried

struct MassCheck {
  bool passed = false;
  double loss = 0;  // of perplexity, as a share of what is allowed; 0 or less says nothing
};

// Returns the least of a few shares from `least` (at most 0.95) to 0.995 that passes `check`, or
// nullopt if none does. It assumes that a larger share passes where a smaller one does. The loss is
// about proportional to the attention that is left out, so that the first check mostly tells which
// share to check next; after two such forecasts the search bisects, and so it checks at most six.
// Errors of `check` end the search.
absl::StatusOr<std::optional<double>> least_passing_mass(
    double least, const std::function<absl::StatusOr<MassCheck>(double)>& check);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_MASS_SEARCH_H_
