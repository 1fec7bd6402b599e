#include "engine/plan_search.h"

#include <algorithm>

namespace kascade {

absl::StatusOr<std::optional<PlanSize>> cheapest_that_passes(
    int32_t most_selecting, int32_t most_dense,
    const std::function<absl::StatusOr<bool>(PlanSize)>& passes) {
  std::optional<PlanSize> best;
  for (int32_t dense = 0; dense <= most_dense; ++dense) {
    int32_t high = most_selecting - dense;
    if (best) high = std::min(high, best->cost() - 2 * dense - 1);
    if (high < 1) break;
    const auto any = passes({.selecting = high, .more_dense = dense});
    if (!any.ok()) return any.status();
    if (!*any && best) break;
    if (!*any) continue;
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
