// The search of an automatic calibration: of the schedules that pass the quality check, it looks
// for the one that reads least (docs/method.md, "The calibration procedure").
#ifndef KASCADE_ENGINE_CALIBRATION_SCHEDULE_SEARCH_H_
#define KASCADE_ENGINE_CALIBRATION_SCHEDULE_SEARCH_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/schedule/schedule.h"

namespace kascade {

struct ScheduleSize {
  int32_t selecting = 0;   // anchor layers and layer 0; at least 1
  int32_t more_dense = 0;  // dense layers beyond those that stay dense in any case

  // What a schedule of this size reads beyond one in which all layers reuse, in halves of a dense
  // layer: a selecting layer scores all keys, but reads the values of the selected keys only.
  int32_t cost() const { return selecting + 2 * more_dense; }
  bool operator==(const ScheduleSize&) const = default;
};

// Returns the cheapest size that `passes`, with 0 to `most_dense` more dense layers beside 1 to
// `most_selecting` − more_dense selecting ones, or nullopt if none is found. Two assumptions keep
// it at about log2(most_selecting) calls of `passes` for each number of dense layers: more
// selecting layers pass where fewer do, and if neither one nor two more dense layers bring
// anything, then three do not either. The size that is returned is the last one that passed. Errors
// of `passes` end the search.
absl::StatusOr<std::optional<ScheduleSize>> cheapest_passing_size(
    int32_t most_selecting, int32_t most_dense,
    const std::function<absl::StatusOr<bool>(ScheduleSize)>& passes);

// Searches the schedules that dynamic programming builds from `similarity` with `dense_layers` and
// any more layers dense. Layers become dense in the order of their cost of selecting, at most half
// of those that may; none where this cost was not measured. The caller keeps the best of those that
// passed, since what a schedule reads is measured only when it is checked.
absl::Status search_schedules(
    const Similarity& similarity, const std::vector<int32_t>& dense_layers,
    const std::function<absl::StatusOr<bool>(std::vector<LayerSchedule>)>& passes);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_SCHEDULE_SEARCH_H_
