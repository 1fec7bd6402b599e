#include "engine/runtime/batch_builder.h"

#include <algorithm>

namespace kascade {
namespace {

void add_block_table(std::span<const int32_t> blocks, Batch& batch) {
  batch.block_tables.insert(batch.block_tables.end(), blocks.begin(), blocks.end());
  batch.block_tables.resize(
      batch.block_tables.size() + static_cast<size_t>(batch.table_width) - blocks.size(), -1);
}

void add_rows(const Slice& slice, const Sequence& sequence, int32_t block_size, Batch& batch) {
  const std::span<const int32_t> blocks = sequence.tables[slice.branch].blocks();
  for (int32_t position = slice.begin; position < slice.begin + slice.count; ++position) {
    batch.tokens.push_back(sequence.tokens[position]);
    batch.positions.push_back(position);
    batch.slots.push_back(blocks[position / block_size] * block_size + position % block_size);
  }
}

// Adds the tiles of a slice; the last entry of tile_start must be the start of the first one.
void add_tiles(const PlannedSlice& planned, int32_t seq, Batch& batch) {
  const AttentionPolicy& policy = *planned.policy;
  const int32_t begin = planned.slice->begin, end = begin + planned.slice->count;
  for_each_tile(policy, planned.sequence->spec.prefill_end, begin, end, [&](const TileSpan& tile) {
    const Candidates candidates = policy.candidates(tile.first, tile.per_query);
    batch.tile_seq.push_back(seq);
    batch.candidate_begin.push_back(candidates.begin);
    batch.candidate_end.push_back(candidates.end);
    batch.budget.push_back(candidates.budget);
    batch.tile_start.push_back(batch.tile_start.back() + tile.last + 1 - tile.first);
  });
}

LogitSpan add_logits(const Slice& slice, int32_t first_row, Batch& batch) {
  const int32_t first = std::max(slice.first_logit, slice.begin);
  const int32_t end = slice.begin + slice.count;
  LogitSpan span{static_cast<int32_t>(batch.logit_rows.size()), std::max(0, end - first), first};
  for (int32_t position = first; position < end; ++position) {
    batch.logit_rows.push_back(first_row + position - slice.begin);
  }
  return span;
}

}  // namespace

void for_each_tile(const AttentionPolicy& policy, int32_t prefill_end, int32_t begin, int32_t end,
                   absl::FunctionRef<void(const TileSpan&)> tile) {
  const auto [query_tile, shares_selection] = policy.tiling();
  const int32_t tiles_end = shares_selection ? prefill_end : end;
  while (begin < end) {
    const bool per_query = begin >= tiles_end;
    const int32_t tile_end = (begin / query_tile + 1) * query_tile;
    const int32_t next = per_query ? begin + 1 : std::min({tile_end, tiles_end, end});
    tile({begin, next - 1, per_query});
    begin = next;
  }
}

BuiltBatch build_batch(std::span<const PlannedSlice> slices, int32_t block_size) {
  BuiltBatch built;
  Batch& batch = built.batch;
  for (const PlannedSlice& planned : slices) {
    const auto& blocks = planned.sequence->tables[planned.slice->branch].blocks();
    batch.table_width = std::max(batch.table_width, static_cast<int32_t>(blocks.size()));
  }
  batch.tile_start.push_back(0);
  for (size_t i = 0; i < slices.size(); ++i) {
    const PlannedSlice& planned = slices[i];
    const int32_t first_row = batch.rows();
    const int32_t first_tile = batch.tiles();
    add_block_table(planned.sequence->tables[planned.slice->branch].blocks(), batch);
    add_rows(*planned.slice, *planned.sequence, block_size, batch);
    add_tiles(planned, static_cast<int32_t>(i), batch);
    built.tiles.push_back({first_tile, batch.tiles() - first_tile});
    built.logits.push_back(add_logits(*planned.slice, first_row, batch));
  }
  return built;
}

}  // namespace kascade
