// Shapes and data for the operations of a backend, used by kernel_test and kernel_bench.
#ifndef KASCADE_TESTS_SUPPORT_KERNEL_CASES_H_
#define KASCADE_TESTS_SUPPORT_KERNEL_CASES_H_

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "engine/attention/candidates.h"
#include "engine/backend/batch.h"
#include "engine/backend/host/host_backend.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/quantization.h"
#include "engine/backend/tensor.h"

namespace kascade::testing {

using Random = std::mt19937;

inline void fill_normal(Tensor tensor, float deviation, Random& random) {
  std::normal_distribution<float> normal(0, deviation);
  for (int64_t row = 0; row < tensor.rows; ++row) {
    if (tensor.dtype == DType::kInt8) {
      std::vector<float> values(static_cast<size_t>(tensor.cols));
      for (float& value : values) value = normal(random);
      write_int8_row(values.data(), tensor, row);
      continue;
    }
    for (int64_t col = 0; col < tensor.cols; ++col) {
      const float value = normal(random);
      if (tensor.dtype == DType::kF32) tensor.f32(row)[col] = value;
      if (tensor.dtype == DType::kBF16) tensor.bf16(row)[col] = to_bf16(value);
      if (tensor.dtype == DType::kF16) {
        tensor.row<uint16_t>(row)[col] = std::bit_cast<uint16_t>(static_cast<_Float16>(value));
      }
    }
  }
}
inline HostBuffer normal_matrix(DType dtype, int64_t rows, int64_t cols, Random& random,
                                float deviation = 1) {
  HostBuffer buffer(dtype, rows, cols);
  fill_normal(buffer.view(), deviation, random);
  return buffer;
}

struct MatmulCase {
  int64_t rows, in, out;
};
inline const std::vector<MatmulCase> kMatmulCases = {{1, 64, 48},   {17, 33, 5}, {32, 256, 192},
                                                     {97, 80, 260}, {2, 1, 1},   {5, 512, 64},
                                                     {97, 4300, 35}};

// Rows [first, first + count) of one sequence; the keys and values of earlier positions are already
// in the cache.
struct SequenceRows {
  int32_t first = 0;
  int32_t count = 1;
  bool per_query = false;
};

struct AttentionCase {
  int32_t kv_heads = 2;
  int32_t group = 4;  // query heads per KV head
  int32_t dim = 64;
  int32_t block_size = 16;
  SelectionSettings rule{};
  std::vector<SequenceRows> sequences{};
};

// Lengths at and around the boundaries of tiles and blocks: starts of prompts, tiles of 1, 2, 5, 16
// and 32 rows, and single rows late in a sequence.
inline const std::vector<SequenceRows> kSomeSequences = {
    {0, 1}, {0, 34}, {59, 5}, {224, 33}, {300, 2, true}, {657, 1, true}, {128, 16}};

inline SelectionSettings small_rule() {
  // small enough that a selection from a few hundred keys already leaves some out
  return {.ratio = 0.2, .min_keys = 24};
}

inline std::vector<AttentionCase> attention_cases() {
  const SelectionSettings plain = small_rule();
  SelectionSettings sinks = plain, paper = plain, short_tile = plain;
  sinks.sink_keys = 5;
  paper.decode_own_tile = false;
  short_tile.query_tile = 16;
  return {{2, 1, 8, 16, plain, kSomeSequences},       {1, 2, 16, 32, sinks, kSomeSequences},
          {2, 3, 32, 16, paper, kSomeSequences},      {2, 4, 64, 32, plain, kSomeSequences},
          {1, 8, 80, 16, short_tile, kSomeSequences}, {2, 1, 128, 32, sinks, kSomeSequences},
          {3, 1, 64, 16, short_tile, kSomeSequences}, {1, 4, 128, 16, paper, kSomeSequences},
          {1, 7, 8, 24, plain, kSomeSequences},       {2, 5, 6, 16, plain, kSomeSequences}};
}

// Returns the selected keys of every tile and KV head, in that order.
inline std::vector<std::vector<int32_t>> all_keys(const Selection& selection) {
  std::vector<std::vector<int32_t>> keys;
  for (int32_t tile = 0; tile < selection.tiles(); ++tile) {
    for (int32_t g = 0; g < selection.kv_heads(); ++g) keys.push_back(selection.read(tile, g));
  }
  return keys;
}

// One step over the sequences of a case. Blocks are in random order in the cache; cache entries
// that no row may read are NaN.
class AttentionData {
 public:
  AttentionData(const AttentionCase& shape, DType cache_dtype, uint32_t seed = 1)
      : shape_(shape), random_(seed) {
    int32_t longest = 1;
    for (const SequenceRows& rows : shape.sequences) {
      longest = std::max(longest, rows.first + rows.count);
    }
    batch.table_width = (longest + shape.block_size - 1) / shape.block_size;
    const int64_t sequences = static_cast<int64_t>(shape.sequences.size());
    batch.block_tables.resize(static_cast<size_t>(sequences * batch.table_width));
    std::iota(batch.block_tables.begin(), batch.block_tables.end(), 0);
    std::shuffle(batch.block_tables.begin(), batch.block_tables.end(), random_);
    batch.tile_start.push_back(0);
    for (int32_t seq = 0; seq < sequences; ++seq) add_tiles(shape.sequences[seq], seq);
    const int64_t slots = sequences * batch.table_width * shape.block_size;
    keys_ = HostBuffer(cache_dtype, slots * shape.kv_heads, shape.dim);
    values_ = HostBuffer(cache_dtype, slots * shape.kv_heads, shape.dim);
    cache = {keys_.view(), values_.view(), shape.block_size, shape.kv_heads};
    fill_cache();
    q_ = normal_matrix(DType::kF32, batch.rows(), width(), random_, 1.5f);
    q = q_.view();
  }

  int64_t width() const {
    return static_cast<int64_t>(shape_.kv_heads) * shape_.group * shape_.dim;
  }
  TileRange tiles() const { return {0, batch.tiles()}; }
  HostStepInput step() const { return HostStepInput(batch); }
  int32_t last_position(int32_t tile) const {
    return batch.positions[batch.tile_start[tile + 1] - 1];
  }
  int64_t cache_row(int32_t tile, int32_t kv_head, int32_t position) const {
    return cache.row(batch.block_table(tile)[position / shape_.block_size], kv_head,
                     position % shape_.block_size);
  }
  void set(Tensor rows, int64_t row, float value) const {
    if (rows.dtype == DType::kInt8) {
      write_int8_row(std::vector<float>(static_cast<size_t>(rows.cols), value).data(), rows, row);
    }
    for (int64_t d = 0; d < rows.cols; ++d) {
      if (rows.dtype == DType::kF32) rows.f32(row)[d] = value;
      if (rows.dtype == DType::kBF16) rows.bf16(row)[d] = to_bf16(value);
    }
  }

  // Returns a random valid selection of `budget` candidates per tile and head.
  HostSelection random_selection() {
    HostSelection selection;
    selection.reset(batch, tiles(), shape_.kv_heads);
    for (int32_t tile = 0; tile < batch.tiles(); ++tile) {
      std::vector<int32_t> all(
          static_cast<size_t>(batch.candidate_end[tile] - batch.candidate_begin[tile]));
      std::iota(all.begin(), all.end(), batch.candidate_begin[tile]);
      for (int32_t g = 0; g < shape_.kv_heads; ++g) {
        std::sample(all.begin(), all.end(), selection.slot(tile, g).begin(), batch.budget[tile],
                    random_);
        selection.set_count(tile, g, batch.budget[tile]);
      }
    }
    return selection;
  }

  Batch batch{};
  LayerCache cache{};
  Tensor q{};

 private:
  void add_tiles(const SequenceRows& rows, int32_t seq) {
    const int32_t end = rows.first + rows.count;
    for (int32_t begin = rows.first; begin < end;) {
      const int32_t tile = shape_.rule.query_tile;
      const int32_t next = rows.per_query ? begin + 1 : std::min(end, (begin / tile + 1) * tile);
      const Candidates candidates = candidates_of(shape_.rule, begin, rows.per_query);
      batch.tile_seq.push_back(seq);
      batch.candidate_begin.push_back(candidates.begin);
      batch.candidate_end.push_back(candidates.end);
      batch.budget.push_back(candidates.budget);
      for (; begin < next; ++begin) {
        batch.tokens.push_back(0);
        batch.positions.push_back(begin);
        const int32_t block = batch.block_tables[static_cast<size_t>(seq * batch.table_width +
                                                                     begin / shape_.block_size)];
        batch.slots.push_back(block * shape_.block_size + begin % shape_.block_size);
      }
      batch.tile_start.push_back(batch.rows());
    }
  }

  void fill_cache() {
    for (int64_t row = 0; row < cache.keys.rows; ++row) {
      set(cache.keys, row, std::numeric_limits<float>::quiet_NaN());
      set(cache.values, row, std::numeric_limits<float>::quiet_NaN());
    }
    for (int32_t tile = 0; tile < batch.tiles(); ++tile) {
      for (int32_t position = 0; position <= last_position(tile); ++position) {
        for (int32_t g = 0; g < shape_.kv_heads; ++g) {
          const int64_t row = cache_row(tile, g, position);
          fill_normal(cache.keys.slice_rows(row, 1), 1, random_);
          fill_normal(cache.values.slice_rows(row, 1), 1, random_);
        }
      }
    }
  }

  AttentionCase shape_;
  Random random_;
  HostBuffer keys_, values_, q_;
};

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_KERNEL_CASES_H_
