// All that a kernel may know of a step: ragged, flat index arrays and views of the paged cache. No
// sequence, no request. Built by the batcher, read by backends and attention policies.
#ifndef KASCADE_ENGINE_BACKEND_BATCH_H_
#define KASCADE_ENGINE_BACKEND_BATCH_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/backend/tensor.h"

namespace kascade {

// The rows of one step, sequence after sequence. A *tile* is a run of rows of one sequence that
// share one choice of keys: the rows of a query tile (tile rule), or one row (row rule).
struct Batch {
  std::vector<int32_t> tokens;     // [rows] token ids
  std::vector<int32_t> positions;  // [rows] absolute positions
  std::vector<int32_t> slots;      // [rows] cache slot of the row: block · block_size + offset

  std::vector<int32_t> block_tables;  // [seqs, table_width] block ids in order of position
  int32_t table_width = 0;

  std::vector<int32_t> tile_start;       // [tiles + 1] first row of each tile
  std::vector<int32_t> tile_seq;         // [tiles] row of block_tables
  std::vector<int32_t> candidate_begin;  // [tiles] keys below are sinks: always attended
  std::vector<int32_t> candidate_end;    // [tiles] keys from here up to the row's own position are
                                         //         always attended
  std::vector<int32_t> budget;  // [tiles] keys to choose of [candidate_begin, candidate_end)

  std::vector<int32_t> logit_rows;  // [logits] rows whose hidden state is wanted, ascending

  int32_t rows() const { return static_cast<int32_t>(tokens.size()); }
  int32_t tiles() const { return static_cast<int32_t>(tile_seq.size()); }
  const int32_t* block_table(int32_t tile) const {
    return block_tables.data() + static_cast<int64_t>(tile_seq[tile]) * table_width;
  }
};

// A run of tiles of the batch, e.g. those of one attention policy.
struct TileRange {
  int32_t begin = 0;
  int32_t count = 0;
};

// One layer's part of the paged cache. Row (block · kv_heads + g) · block_size + offset of `keys`
// and `values` is the [head_dim] vector of KV head g at that slot.
struct LayerCache {
  Tensor keys;
  Tensor values;
  int32_t block_size = 0;
  int32_t kv_heads = 0;

  int64_t row(int32_t block, int32_t kv_head, int32_t offset) const {
    return (static_cast<int64_t>(block) * kv_heads + kv_head) * block_size + offset;
  }
};

// The keys chosen for each (tile of a range, KV head): ascending absolute positions, sinks
// excluded.
struct Selection {
  int32_t capacity = 0;          // most keys per (tile, head)
  std::vector<int32_t> indices;  // [tiles, kv_heads, capacity]
  std::vector<int32_t> counts;   // [tiles, kv_heads]

  void reset(int32_t tiles, int32_t kv_heads, int32_t most_keys) {
    capacity = most_keys;
    indices.resize(static_cast<size_t>(tiles) * kv_heads * most_keys);
    counts.assign(static_cast<size_t>(tiles) * kv_heads, 0);
  }
  std::span<int32_t> slot(int32_t tile, int32_t kv_heads, int32_t head) {
    const size_t index = static_cast<size_t>(tile) * kv_heads + head;
    return {indices.data() + index * capacity, static_cast<size_t>(capacity)};
  }
  std::span<const int32_t> keys(int32_t tile, int32_t kv_heads, int32_t head) const {
    const size_t index = static_cast<size_t>(tile) * kv_heads + head;
    return {indices.data() + index * capacity, static_cast<size_t>(counts[index])};
  }
};

// Which keys a row attends to. Without a selection: all causal keys. With one: the sinks, the keys
// selected for head_map[g] (identity when empty), and [candidate_end, own position].
struct KeySet {
  const Selection* selection = nullptr;
  std::span<const int32_t> head_map{};  // [kv_heads]
};

// How the probabilities of a tile's rows become one score per key and KV head.
enum class Pooling {
  kSum,         // sum over all rows of the tile and the query heads of the group (kascade)
  kMax,         // largest over the same (kascade, an experiment)
  kLastRowMax,  // last row only, largest of the group's heads (tile family, selection)
  kLastRowSum,  // last row only, sum over the group's heads (tile family, similarity)
};

// How select_keys() turns scores into a choice. `unit` consecutive keys, aligned to `unit`, are
// chosen together by their largest score; 1 = single keys.
struct SelectOptions {
  Pooling pooling = Pooling::kSum;
  int32_t unit = 1;
  // One choice for all KV heads, by the sum of their scores, or the largest where heads are pooled
  // by the largest.
  bool all_heads = false;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_BATCH_H_
