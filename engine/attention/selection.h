// The selection rule as pure arithmetic: which keys a query row may choose from and how many
// (method, A2, A4 and A7). Nothing here touches memory; batcher, policies, statistics and tests
// share it, so that a budget is computed in one place.
#ifndef KASCADE_ENGINE_ATTENTION_SELECTION_H_
#define KASCADE_ENGINE_ATTENTION_SELECTION_H_

#include <algorithm>
#include <cstdint>
#include <string_view>

namespace kascade {

// What a selection picks: single keys (the paper), or key tiles of `query_tile` keys.
enum class Family { kKascade, kTile };

constexpr std::string_view name_of(Family family) {
  return family == Family::kKascade ? "kascade" : "tile";
}

// How the probabilities of a key become its score.
enum class ScorePooling { kSum, kMax };

constexpr std::string_view name_of(ScorePooling pooling) {
  return pooling == ScorePooling::kSum ? "sum" : "max";
}

struct SelectionRule {
  Family family = Family::kKascade;
  int32_t query_tile = 32;      // T; tile n holds absolute positions [nT, (n+1)T)
  double ratio = 0.10;          // kascade: share of the candidates, (0, 1]
  int32_t min_keys = 128;       // kascade: at least this many keys
  int32_t top_k = 12;           // tile: key tiles, the own tile not counted
  bool decode_own_tile = true;  // false: the paper's decode, nothing forced (row rule only)
  int32_t sink_keys = 0;        // first keys, always attended on top; never candidates
  // kascade: over the deciding rows and heads. The tile family always takes the largest.
  ScorePooling pooling = ScorePooling::kSum;
  bool all_heads = false;  // kascade: one choice for all KV heads, whose scores are pooled too

  bool operator==(const SelectionRule&) const = default;
};

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
inline Candidates candidates_of(const SelectionRule& rule, int32_t position, bool row) {
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

#endif  // KASCADE_ENGINE_ATTENTION_SELECTION_H_
