// What a trace of one query tells: which keys each layer selected and attended to, and how much of
// the attention mass these hold (docs/method.md, "Trace").
#ifndef KASCADE_ENGINE_TRACE_TRACE_H_
#define KASCADE_ENGINE_TRACE_TRACE_H_

#include <cstdint>
#include <vector>

#include "engine/attention/policy.h"

namespace kascade {

// The traced rows are the tile that holds `position`, or the row at `position` alone.
struct TraceOptions {
  int32_t position = 0;
  bool row_alone = false;
  std::vector<int32_t> layers{};    // to record; ascending
  std::vector<int32_t> kv_heads{};  // to record; ascending
  int32_t map_tile = 0;             // keys of a map's cell and queries of its row; 0: no maps
};

// A share of mass is that of the attention probabilities over all causal keys, summed over the
// traced rows and the query heads of the KV head.
struct HeadTrace {
  int32_t kv_head = 0;
  int32_t source_head = 0;    // KV head of the source layer whose selection it attends to
  int32_t attended_keys = 0;  // by the last traced row
  double attended_mass = 0;   // share of the mass on the keys attended to, [0, 1]
  double selected_mass = 0;   // of a layer that selects: on sinks, own selection and own tile
  // Of a layer that selects: the first key of each selected unit, by falling score; of equal scores
  // the lower key first. Ascending if there are no scores.
  std::vector<int32_t> selected{};
  std::vector<float> scores{};  // parallel to `selected`; empty if keys are not ranked by scores
  bool takes_all = false;       // the budget covers all candidates: the engine scored nothing
};

struct LayerTrace {
  int32_t layer = 0;
  LayerKind kind = LayerKind::kDense;
  int32_t source = 0;  // layer whose selection it attends to; the layer itself unless it reuses
  bool selects = false;
  int32_t causal_keys = 0;         // of the last traced row
  std::vector<HeadTrace> heads{};  // [kv_heads of the options]
};

// The queries of row i and the keys of cell i are at positions [i · map_tile, (i + 1) · map_tile).
struct TraceMapRow {
  std::vector<float> mass{};             // [i + 1] share of the row's mass on the cell's keys
  std::vector<float> attended_mass{};    // [i + 1] the part of it on keys attended to
  std::vector<uint8_t> attended_keys{};  // [i + 1] the most of any query tile of the row; ≤ 128
};
struct TraceMap {
  int32_t layer = 0;
  int32_t kv_head = 0;
  std::vector<TraceMapRow> rows{};
};

struct Trace {
  std::vector<LayerTrace> layers{};  // [layers of the options]
  std::vector<TraceMap> maps{};      // [layers, kv_heads of the options], or empty
};

// The number of cells of one map of `tokens` tokens.
constexpr int64_t map_cells(int64_t tokens, int32_t map_tile) {
  const int64_t rows = (tokens + map_tile - 1) / map_tile;
  return rows * (rows + 1) / 2;
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_TRACE_TRACE_H_
