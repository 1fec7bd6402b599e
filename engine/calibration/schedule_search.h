// Which plan an automatic calibration takes: the one that reads least of those that pass.
#ifndef KASCADE_ENGINE_CALIBRATION_SCHEDULE_SEARCH_H_
#define KASCADE_ENGINE_CALIBRATION_SCHEDULE_SEARCH_H_

#include <cstdint>
#include <functional>
#include <optional>

#include "absl/status/statusor.h"

namespace kascade {

struct ScheduleSize {
  int32_t selecting = 0;   // layers, layer 0 counted; at least 1
  int32_t more_dense = 0;  // layers, besides those that stay dense anyway

  // What the plan reads beyond one that only reuses, in halves of a dense layer: a selecting layer
  // scores all keys, but reads the values of the chosen ones alone.
  int32_t cost() const { return selecting + 2 * more_dense; }
  bool operator==(const ScheduleSize&) const = default;
};

// The cheapest plan that `passes`, of 1 to `most_selecting` − more_dense selecting layers beside 0
// to `most_dense` more dense ones; nullopt if none is found. Takes for granted that a plan passes
// if one with fewer selecting layers does, and that where neither one more dense layer pays nor two
// do, three will not either: some log2(most_selecting) questions for each number of dense layers.
// What it returns is the last plan that passed. Errors of `passes` end the search.
absl::StatusOr<std::optional<ScheduleSize>> cheapest_passing_size(
    int32_t most_selecting, int32_t most_dense,
    const std::function<absl::StatusOr<bool>(ScheduleSize)>& passes);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_SCHEDULE_SEARCH_H_
