#include "engine/backend/cpu/key_selector.h"

#include <algorithm>

#include "engine/backend/cpu/head_work.h"
#include "engine/base/check.h"

namespace kascade::cpu {
namespace {

Queries queries_of(const SelectingTiles& in, int32_t tile, int32_t kv_head) {
  return cpu::queries_of(in.q, in.cache, in.batch, tile, kv_head);
}

Queries deciding_queries(const SelectingTiles& in, int32_t tile, int32_t kv_head, Pooling pooling) {
  const Queries queries = queries_of(in, tile, kv_head);
  const bool all_rows = pooling == Pooling::kSum || pooling == Pooling::kMax;
  return all_rows ? queries : last_row(queries);
}

Pool pool_of(Pooling pooling) { return takes_largest(pooling) ? Pool::kMax : Pool::kSum; }

}  // namespace

void KeySelector::pool_scores(const SelectingTiles& in, Pooling pooling, Tensor scores) {
  for_tiles(1, in.cache.kv_heads, [&](int32_t, int32_t g, ThreadWorkspace& workspace) {
    pool(in, in.tiles.begin, g, pooling, scores.f32(g), workspace);
  });
}

void KeySelector::select_keys(const SelectingTiles& in, const SelectOptions& options,
                              HostSelection& selection) {
  KASCADE_CHECK(!options.by_int4_keys || in.cache.has_int4_keys());
  selection.reset(in.batch, in.tiles, in.cache.kv_heads);
  if (options.all_heads) return select_for_all_heads(in, options, selection);
  if (can_share_rows(in, options)) return select_in_parts(in, options, selection);
  for_tiles(in.tiles.count, in.cache.kv_heads,
            [&](int32_t index, int32_t g, ThreadWorkspace& workspace) {
              choose(in, options, index, g, selection, workspace, [&](float* scores) {
                pool_to_select(in, in.tiles.begin + index, g, options, scores, workspace);
              });
            });
}

void KeySelector::select_pages(const SelectingTiles& in, int32_t page_size,
                               HostSelection& selection) {
  const Batch& batch = in.batch;
  selection.reset(batch, in.tiles, in.cache.kv_heads);
  const std::vector<TileRange> sequences = by_sequence(batch, in.tiles);
  const int64_t width = in.q.cols / in.cache.kv_heads;
  const auto count = static_cast<int32_t>(sequences.size());
  for_tiles(count, in.cache.kv_heads, [&](int32_t sequence, int32_t g, ThreadWorkspace& workspace) {
    const TileRange own = sequences[sequence];
    const auto* ends = batch.candidate_end.data() + own.begin;
    const int32_t pages = *std::max_element(ends, ends + own.count) / page_size;
    workspace.pages.read(in.cache, batch.block_table(own.begin), g, page_size, pages);
    for (int32_t tile = own.begin; tile < own.begin + own.count; ++tile) {
      const int32_t row = batch.tile_start[tile], rows = batch.tile_start[tile + 1] - row;
      workspace.pages.choose(
          in.q.slice_rows(row, rows).slice_cols(g * width, width),
          {batch.candidate_begin[tile], batch.candidate_end[tile], batch.budget[tile], page_size},
          *kernels_.choice, selection.slot(tile - in.tiles.begin, g).data());
      selection.set_count(tile - in.tiles.begin, g, batch.budget[tile]);
    }
  });
}

// Whether every tile is a single row that threads can score together, and there are few of them.
bool KeySelector::can_share_rows(const SelectingTiles& in, const SelectOptions& options) const {
  const int64_t heads = int64_t{in.tiles.count} * in.cache.kv_heads;
  const int64_t group = in.q.cols / in.cache.keys.cols / in.cache.kv_heads;
  const int32_t rows =
      in.batch.tile_start[in.tiles.begin + in.tiles.count] - in.batch.tile_start[in.tiles.begin];
  return options.by_int4_keys && pool_.threads() > 1 && heads < kManyPerThread * pool_.threads() &&
         rows == in.tiles.count && group <= kMostInt4Queries &&
         kInt4KeySplit % in.cache.block_size == 0;
}

void KeySelector::select_in_parts(const SelectingTiles& in, const SelectOptions& options,
                                  HostSelection& selection) {
  const int32_t first = in.tiles.begin, kv_heads = in.cache.kv_heads;
  int32_t most = 1;  // parts of a head
  for (int32_t tile = first; tile < first + in.tiles.count; ++tile) {
    const int32_t keys = choice_of(in.batch, tile, options).causal;
    most = std::max(most, (keys + kInt4KeySplit - 1) / kInt4KeySplit);
  }
  const int64_t size = kernels_.int4_powers_size(queries_of(in, first, 0), most * kInt4KeySplit);
  float* all = at_least(powers_, int64_t{in.tiles.count} * kv_heads * size);
  const auto powers_of = [&](int32_t index, int32_t g) {
    return all + (int64_t{index} * kv_heads + g) * size;
  };
  for_tiles(in.tiles.count * most, kv_heads, [&](int32_t i, int32_t g, ThreadWorkspace& workspace) {
    const int32_t index = i / most, begin = i % most * kInt4KeySplit;
    const Choice choice = choice_of(in.batch, first + index, options);
    if (choice.takes_all() || begin >= choice.causal) return;
    const Queries row = queries_of(in, first + index, g);
    kernels_.int4_powers(row, int4_keys_of_head(in.cache, in.batch, first + index, g), begin,
                         workspace.kernel(kernels_.int4_pool_workspace_size(row, 0)),
                         powers_of(index, g));
  });
  for_tiles(in.tiles.count, kv_heads, [&](int32_t index, int32_t g, ThreadWorkspace& workspace) {
    choose(in, options, index, g, selection, workspace, [&](float* scores) {
      kernels_.pool_int4_powers(queries_of(in, first + index, g), pool_of(options.pooling),
                                powers_of(index, g), scores);
    });
  });
}

// Runs one task per tile, because the scores of all KV heads must be known before a key is
// selected.
void KeySelector::select_for_all_heads(const SelectingTiles& in, const SelectOptions& options,
                                       HostSelection& selection) {
  const int32_t kv_heads = in.cache.kv_heads;
  for_tiles(in.tiles.count, 1, [&](int32_t index, int32_t, ThreadWorkspace& workspace) {
    const int32_t tile = in.tiles.begin + index;
    const Choice choice = choice_of(in.batch, tile, options);
    const int64_t keys = choice.causal;
    float* scores = nullptr;
    if (!choice.takes_all()) {
      scores = workspace.scores(keys * kv_heads);
      for (int32_t g = 0; g < kv_heads; ++g) {
        pool_to_select(in, tile, g, options, scores + g * keys, workspace);
      }
      pool_heads({scores, DType::kF32, kv_heads, keys, keys}, options.pooling);
    }
    int32_t* chosen = selection.slot(index, 0).data();
    const int32_t count = choose_keys(scores, choice, workspace.choice, chosen, *kernels_.choice);
    for (int32_t g = 0; g < kv_heads; ++g) {
      if (g > 0) std::copy_n(chosen, count, selection.slot(index, g).data());
      selection.set_count(index, g, count);
    }
  });
}

// Chooses the keys of a tile and KV head by the scores that `score` writes.
template <typename Score>
void KeySelector::choose(const SelectingTiles& in, const SelectOptions& options, int32_t index,
                         int32_t kv_head, HostSelection& selection, ThreadWorkspace& workspace,
                         const Score& score) const {
  const Choice choice = choice_of(in.batch, in.tiles.begin + index, options);
  float* scores = nullptr;
  if (!choice.takes_all()) {
    scores = workspace.scores(choice.causal);
    score(scores);
  }
  int32_t* keys = selection.slot(index, kv_head).data();
  selection.set_count(index, kv_head,
                      choose_keys(scores, choice, workspace.choice, keys, *kernels_.choice));
}

// The scores that options select by.
void KeySelector::pool_to_select(const SelectingTiles& in, int32_t tile, int32_t kv_head,
                                 const SelectOptions& options, float* scores,
                                 ThreadWorkspace& workspace) const {
  if (!options.by_int4_keys) {
    return pool(in, tile, kv_head, options.pooling, scores, workspace);
  }
  const Queries queries = deciding_queries(in, tile, kv_head, options.pooling);
  const int32_t keys = queries.first_position + queries.rows;
  kernels_.pool_int4_keys(queries, int4_keys_of_head(in.cache, in.batch, tile, kv_head),
                          pool_of(options.pooling), scores,
                          workspace.kernel(kernels_.int4_pool_workspace_size(queries, keys)));
}

void KeySelector::pool(const SelectingTiles& in, int32_t tile, int32_t kv_head, Pooling pooling,
                       float* scores, ThreadWorkspace& workspace) const {
  const Queries queries = deciding_queries(in, tile, kv_head, pooling);
  const int32_t keys = queries.first_position + queries.rows;
  const CachedRows rows = rows_of_head(in.cache, in.batch, tile, kv_head);
  kernels_.pool(queries, rows, pool_of(pooling), scores,
                workspace.kernel(kernels_.workspace_size(queries, rows.format, keys)));
}

}  // namespace kascade::cpu
