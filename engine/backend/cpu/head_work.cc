#include "engine/backend/cpu/head_work.h"

#include <algorithm>

#include "engine/backend/host/host_backend.h"

namespace kascade::cpu {
namespace {

CacheFormat format_of(DType dtype) {
  if (dtype == DType::kInt8) return CacheFormat::kInt8;
  return dtype == DType::kBF16 ? CacheFormat::kBF16 : CacheFormat::kF32;
}

KeyList keys_of(const Batch& batch, TileRange tiles, int32_t index, const KeySet& keys,
                int32_t kv_head) {
  const int32_t tile = tiles.begin + index;
  const int32_t end = batch.positions[batch.tile_start[tile + 1] - 1] + 1;
  if (keys.selection == nullptr) return {.own_end = end};
  const int32_t source = keys.head_map.empty() ? kv_head : keys.head_map[kv_head];
  const auto chosen = host_selection(*keys.selection).keys(index, source);
  return {.sinks = batch.candidate_begin[tile],
          .chosen = chosen.data(),
          .chosen_count = static_cast<int32_t>(chosen.size()),
          .own_begin = batch.candidate_end[tile],
          .own_end = end};
}

}  // namespace

std::vector<TileRange> by_sequence(const Batch& batch, TileRange tiles) {
  std::vector<TileRange> runs;
  for (int32_t tile = tiles.begin; tile < tiles.begin + tiles.count; ++tile) {
    if (runs.empty() || batch.tile_seq[tile] != batch.tile_seq[tile - 1]) runs.push_back({tile, 0});
    ++runs.back().count;
  }
  return runs;
}

CachedRows rows_of_head(LayerCache cache, const Batch& batch, int32_t tile, int32_t kv_head) {
  return {.keys = cache.keys.data,
          .values = cache.values.data,
          .format = format_of(cache.keys.dtype),
          .key_stride = cache.keys.stride,
          .value_stride = cache.values.stride,
          .blocks = batch.block_table(tile),
          .block_size = cache.block_size,
          .kv_heads = cache.kv_heads,
          .kv_head = kv_head};
}

Int4KeyRows int4_keys_of_head(LayerCache cache, const Batch& batch, int32_t tile, int32_t kv_head) {
  return {.panels = cache.int4_keys.row<int32_t>(0),
          .panel_words = cache.int4_keys.stride,
          .blocks = batch.block_table(tile),
          .block_size = cache.block_size,
          .kv_heads = cache.kv_heads,
          .kv_head = kv_head};
}

Queries queries_of(Tensor q, LayerCache cache, const Batch& batch, int32_t tile, int32_t kv_head) {
  const int32_t first = batch.tile_start[tile];
  const auto dim = static_cast<int32_t>(cache.keys.cols);
  const auto group = static_cast<int32_t>(q.cols / dim / cache.kv_heads);
  return {.q = q.f32(first) + static_cast<int64_t>(kv_head) * group * dim,
          .stride = q.stride,
          .rows = batch.tile_start[tile + 1] - first,
          .heads = group,
          .dim = dim,
          .first_position = batch.positions[first]};
}

Queries last_row(const Queries& queries) {
  Queries last = queries;
  last.q += (queries.rows - 1) * queries.stride;
  last.first_position += queries.rows - 1;
  last.rows = 1;
  return last;
}

int32_t HeadWork::parts() const {
  const int32_t count = keys.sinks + keys.chosen_count + keys.own_end - keys.own_begin;
  return queries.rows == 1 ? std::max(1, (count + kKeySplit - 1) / kKeySplit) : 1;
}

HeadWork head_work(Tensor q, LayerCache cache, const Batch& batch, TileRange tiles, int32_t index,
                   int32_t kv_head, const KeySet& keys, Tensor out) {
  const int32_t tile = tiles.begin + index, row = batch.tile_start[tile];
  const Queries queries = queries_of(q, cache, batch, tile, kv_head);
  return {.queries = queries,
          .rows = rows_of_head(cache, batch, tile, kv_head),
          .keys = keys_of(batch, tiles, index, keys, kv_head),
          .out = out.f32(row) + (queries.q - q.f32(row))};
}

}  // namespace kascade::cpu
