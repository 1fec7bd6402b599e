#include "engine/calibration/schedule_search.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace kascade {
namespace {

// The layers that may become dense, those first whose selecting costs most.
std::vector<int32_t> layers_by_select_cost(const Similarity& similarity,
                                           const std::vector<int32_t>& dense_layers) {
  std::vector<int32_t> layers;
  if (similarity.select_cost.empty()) return layers;
  for (int32_t layer = 1; layer < similarity.layers(); ++layer) {
    if (std::ranges::find(dense_layers, layer) == dense_layers.end()) layers.push_back(layer);
  }
  std::ranges::stable_sort(layers, std::greater(),
                           [&](int32_t layer) { return similarity.select_cost[layer]; });
  return layers;
}

}  // namespace

absl::StatusOr<std::optional<ScheduleSize>> cheapest_passing_size(
    int32_t most_selecting, int32_t most_dense,
    const std::function<absl::StatusOr<bool>(ScheduleSize)>& passes) {
  constexpr int32_t kMostMisses = 2;  // numbers of dense layers in a row that bring nothing
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

absl::Status search_schedules(
    const Similarity& similarity, const std::vector<int32_t>& dense_layers,
    const std::function<absl::StatusOr<bool>(std::vector<LayerSchedule>)>& passes) {
  const std::vector<int32_t> may_be_dense = layers_by_select_cost(similarity, dense_layers);
  const auto size_passes = [&](ScheduleSize size) {
    std::vector<int32_t> dense(may_be_dense.begin(), may_be_dense.begin() + size.more_dense);
    dense.insert(dense.end(), dense_layers.begin(), dense_layers.end());
    auto schedules = schedules_by_dynamic_programming(similarity, dense);
    return passes(std::move(schedules[static_cast<size_t>(size.selecting) - 1]));
  };
  const auto most =
      static_cast<int32_t>(schedules_by_dynamic_programming(similarity, dense_layers).size());
  return cheapest_passing_size(most, static_cast<int32_t>(may_be_dense.size() / 2), size_passes)
      .status();
}

}  // namespace kascade
