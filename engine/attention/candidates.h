// Which keys a query may choose from and how many it chooses, as pure arithmetic (method, A2, A4 and
// A7). The batch builder, policies, statistics and tests share it, so that a budget is computed in
// one place.
#ifndef KASCADE_ENGINE_ATTENTION_CANDIDATES_H_
#define KASCADE_ENGINE_ATTENTION_CANDIDATES_H_

#include <algorithm>
#include <cstdint>

#include "engine/schedule/selection_settings.h"

namespace kascade {

// Keys that one choice may take. Row t attends to the sinks, to the chosen keys and to its own
// block [candidate_end, t].
struct Candidates {
  int32_t begin = 0;   // sinks end here
  int32_t end = 0;     // exclusive
  int32_t budget = 0;  // keys to choose: ≤ end − begin; a multiple of the tile for Family::kTile

  int32_t count() const { return end - begin; }
  bool takes_all() const { return budget == count(); }
};

// Row-rule rows pass `row` = true: with decode_own_tile = false their candidates reach up to the
// row itself.
inline Candidates candidates_of(const SelectionSettings& rule, int32_t position, bool row) {
  const int32_t tile_begin = position / rule.query_tile * rule.query_tile;
  const int32_t end = row && !rule.decode_own_tile ? position + 1 : tile_begin;
  const int32_t begin = std::min(rule.sink_keys, end);
  int64_t budget;
  if (rule.family == Family::kKascade) {
    budget = std::max<int64_t>(rule.min_keys, static_cast<int64_t>(rule.ratio * end));
  } else {
    budget = static_cast<int64_t>(rule.top_k) * rule.query_tile;
  }
  return {begin, end, static_cast<int32_t>(std::min<int64_t>(budget, end - begin))};
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_CANDIDATES_H_
