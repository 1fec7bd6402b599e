// How the layers of a schedule select keys.
#ifndef KASCADE_ENGINE_SCHEDULE_SELECTION_SETTINGS_H_
#define KASCADE_ENGINE_SCHEDULE_SELECTION_SETTINGS_H_

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

struct SelectionSettings {
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

  bool operator==(const SelectionSettings&) const = default;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULE_SELECTION_SETTINGS_H_
