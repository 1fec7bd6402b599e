// The keys that a query may select from and how many it selects, as pure arithmetic
// (docs/method.md, "Selection"). The batch builder, policies, statistics and tests share it, so
// that a budget is computed in one place.
#ifndef KASCADE_ENGINE_ATTENTION_CANDIDATES_H_
#define KASCADE_ENGINE_ATTENTION_CANDIDATES_H_

#include <algorithm>
#include <cstdint>

#include "engine/backend/selection.h"
#include "engine/schedule/selection_settings.h"

namespace kascade {

// The keys that a row may select from. The row at position t attends to the sinks [0, begin), to
// the selected keys and to [end, t].
struct Candidates {
  int32_t begin = 0;   // first candidate; the keys before it are sinks
  int32_t end = 0;     // exclusive
  int32_t budget = 0;  // most keys to select, ≤ count(); whole key tiles for Family::kTile
  int32_t least = 0;  // fewest keys to select; less than `budget` only if the number follows scores

  int32_t count() const { return end - begin; }
  bool takes_all() const { return least == count(); }
};

// With `per_query` the row selects alone; otherwise it belongs to a query tile. Candidates end
// where the row's query tile begins. Only with per_query and decode_own_tile = false do they reach
// up to the row itself. Below settings.dense_below there are none: the row attends to all keys.
inline Candidates candidates_of(const SelectionSettings& settings, int32_t position,
                                bool per_query) {
  const int32_t tile_begin = position / settings.query_tile * settings.query_tile;
  if (tile_begin < settings.dense_below) return {};
  const int32_t end = per_query && !settings.decode_own_tile ? position + 1 : tile_begin;
  const int32_t begin = std::min(settings.sink_keys, end);
  const bool follows_scores = settings.mass > 0;
  int64_t most;
  if (settings.family == Family::kKascade) {
    const double ratio = follows_scores ? settings.max_ratio : settings.ratio;
    most = std::max<int64_t>(settings.min_keys, static_cast<int64_t>(ratio * end));
  } else {
    most = static_cast<int64_t>(settings.top_k) * settings.query_tile;
  }
  const auto budget = static_cast<int32_t>(std::min<int64_t>(most, end - begin));
  const SelectOptions options{.mass = settings.mass, .min_keys = settings.min_keys};
  return {begin, end, budget, least_keys(options, budget)};
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_CANDIDATES_H_
