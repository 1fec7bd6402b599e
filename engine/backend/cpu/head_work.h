// Translates a batch into the arguments of the kernels, for one tile and one KV head at a time.
#ifndef KASCADE_ENGINE_BACKEND_CPU_HEAD_WORK_H_
#define KASCADE_ENGINE_BACKEND_CPU_HEAD_WORK_H_

#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/backend/tensor.h"

namespace kascade::cpu {

// Splits the tiles into runs that belong to one sequence.
std::vector<TileRange> by_sequence(const Batch& batch, TileRange tiles);

CachedRows rows_of_head(LayerCache cache, const Batch& batch, int32_t tile, int32_t kv_head);
Int4KeyRows int4_keys_of_head(LayerCache cache, const Batch& batch, int32_t tile, int32_t kv_head);
Queries queries_of(Tensor q, LayerCache cache, const Batch& batch, int32_t tile, int32_t kv_head);
// Only the last row of the queries.
Queries last_row(const Queries& queries);

// With this many tasks per thread, splitting single rows among threads gains nothing.
constexpr int64_t kManyPerThread = 8;

// The work of attend() for one tile and KV head.
struct HeadWork {
  Queries queries;
  CachedRows rows;
  KeyList keys;
  float* out;

  // The number of parts that threads can share; above 1 only for a single row.
  int32_t parts() const;
};
// `index` is the tile's index within the range.
HeadWork head_work(Tensor q, LayerCache cache, const Batch& batch, TileRange tiles, int32_t index,
                   int32_t kv_head, const KeySet& keys, Tensor out);

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_HEAD_WORK_H_
