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

constexpr int32_t kUsualMassChecks = 3;  // calls of `passes`, about
constexpr double kLeastMass = 0.6;       // the least share that may be tried

// Returns the least of a few shares from `least` (at most 0.95) to 0.995 that `passes`, or nullopt
// if none does. It assumes that a larger share passes where a smaller one does, and so calls
// `passes` at most four times, the last time that it is true with the share that is returned.
// Errors of `passes` end the search.
absl::StatusOr<std::optional<double>> least_passing_mass(
    double least, const std::function<absl::StatusOr<bool>(double)>& passes);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_MASS_SEARCH_H_
