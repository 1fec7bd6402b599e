#include "engine/calibration/schedule_search.h"

#include <algorithm>

namespace kascade {

absl::StatusOr<std::optional<ScheduleSize>> cheapest_passing_size(
    int32_t most_selecting, int32_t most_dense,
    const std::function<absl::StatusOr<bool>(ScheduleSize)>& passes) {
  constexpr int32_t kMostMisses = 2;  // numbers of dense layers in a row that do not pay
  std::optional<ScheduleSize> best;
  int32_t misses = 0;
  for (int32_t dense = 0; dense <= most_dense && misses < kMostMisses; ++dense) {
    int32_t high = most_selecting - dense;
    if (best) high = std::min(high, best->cost() - 2 * dense - 1);
    if (high < 1) break;
    const auto any = passes({.selecting = high, .more_dense = dense});
    if (!any.ok()) return any.status();
    if (!*any) {
      if (best) ++misses;
      continue;
    }
    misses = 0;
    for (int32_t low = 1; low < high;) {  // `high` has passed
      const int32_t middle = (low + high) / 2;
      const auto passed = passes({.selecting = middle, .more_dense = dense});
      if (!passed.ok()) return passed.status();
      *passed ? high = middle : low = middle + 1;
    }
    best = {.selecting = high, .more_dense = dense};
  }
  return best;
}

}  // namespace kascade
