// The settings by which layers select keys, under a schedule or in a baseline.
#ifndef KASCADE_ENGINE_SCHEDULE_SELECTION_SETTINGS_H_
#define KASCADE_ENGINE_SCHEDULE_SELECTION_SETTINGS_H_

#include <cstdint>
#include <string_view>

namespace kascade {

// The unit of a selection: single keys (as in the paper), or key tiles of `query_tile` keys.
enum class Family { kKascade, kTile };

constexpr std::string_view name_of(Family family) {
  return family == Family::kKascade ? "kascade" : "tile";
}

// How the attention probabilities of a key are reduced to its score.
enum class ScorePooling { kSum, kMax };

constexpr std::string_view name_of(ScorePooling pooling) {
  return pooling == ScorePooling::kSum ? "sum" : "max";
}

inline constexpr int32_t kMaxDenseBelow = 1 << 30;

struct SelectionSettings {
  Family family = Family::kKascade;
  int32_t query_tile = 32;  // T positions; tile n is [nT, (n+1)T)
  double ratio = 0.10;      // kascade: budget ÷ keys before the tile, (0, 1]; not read with `mass`
  int32_t min_keys = 128;   // kascade: lower limit of the budget
  // kascade: the share of the scores of all causal keys that the attended keys shall have, (0, 1].
  // The budget is then the fewest keys that reach it, for each tile and KV head, from min_keys to
  // max_ratio. 0 = off: the budget is a fixed share of the keys, `ratio`.
  double mass = 0;
  double max_ratio = 1.0;  // with `mass`: upper limit of the budget ÷ keys before the tile, (0, 1]
  int32_t top_k = 12;      // tile: budget in key tiles, without the own tile
  // Whether a query that selects alone always attends to its own tile. False is the paper's decode,
  // in which the keys of the own tile are candidates too. Tiles always attend to their own tile.
  bool decode_own_tile = true;
  int32_t sink_keys = 0;  // first keys, attended to in addition to the budget; never candidates
  // kascade: pooling over the rows and query heads that decide together. The tile family always
  // takes the maximum.
  ScorePooling pooling = ScorePooling::kSum;
  bool all_heads = false;  // kascade: all KV heads share one selection; their scores are pooled too
  // Whether scores are computed from the 4-bit copy of the keys (engine/backend/int4_keys.h), which
  // the KV cache must have. Attention itself always reads the keys.
  bool int4_keys = false;
  // Tiles that begin before this position attend to all causal keys, in every layer, since with so
  // few keys selecting costs more time than it saves; [0, kMaxDenseBelow]. 0 = none do.
  int32_t dense_below = 0;

  bool operator==(const SelectionSettings&) const = default;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULE_SELECTION_SETTINGS_H_
