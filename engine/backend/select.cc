#include "engine/backend/select.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

namespace kascade {
namespace {

// One rank per unit, free of NaN: with one, neither nth_element nor the thresholds are defined.
void rank_units(const float* scores, const Choice& choice, std::vector<float>& ranks) {
  ranks.clear();
  for (int32_t first = choice.begin; first < choice.end; first += choice.unit) {
    float largest = -std::numeric_limits<float>::infinity();
    for (int32_t key = first; key < first + choice.unit; ++key) {
      if (scores[key] > largest) largest = scores[key];
    }
    ranks.push_back(largest);
  }
}

}  // namespace

void choose_keys(const float* scores, const Choice& choice, ChoiceScratch& scratch, int32_t* out) {
  if (choice.budget == 0) return;
  if (choice.takes_all()) {
    std::iota(out, out + choice.budget, choice.begin);
    return;
  }
  rank_units(scores, choice, scratch.ranks);
  scratch.order = scratch.ranks;
  const int32_t units = choice.budget / choice.unit;
  const auto last = scratch.order.begin() + (units - 1);
  std::nth_element(scratch.order.begin(), last, scratch.order.end(), std::greater<>());
  const float threshold = *last;
  // All that rank above the threshold now stand before it; the rest of the budget goes to the first
  // units that equal it.
  auto ties = units - std::count_if(scratch.order.begin(), last,
                                    [&](float rank) { return rank > threshold; });
  for (size_t index = 0; index < scratch.ranks.size(); ++index) {
    const float rank = scratch.ranks[index];
    if (rank < threshold || (rank == threshold && ties-- <= 0)) continue;
    const auto first = choice.begin + static_cast<int32_t>(index) * choice.unit;
    std::iota(out, out + choice.unit, first);
    out += choice.unit;
  }
}

void reset_selection(const Batch& batch, TileRange tiles, int32_t kv_heads, Selection& selection) {
  const auto first = batch.budget.begin() + tiles.begin;
  const int32_t most_keys = tiles.count == 0 ? 0 : *std::max_element(first, first + tiles.count);
  selection.reset(tiles.count, kv_heads, most_keys);
}

}  // namespace kascade
