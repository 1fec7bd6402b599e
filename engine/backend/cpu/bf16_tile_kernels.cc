// Attention of a tile of rows over bf16 keys and values with the bf16 dot product. Each query has a
// lane (bf16_lanes.h), which adds its products two keys at a time. The bits of a query's result
// depend only on its own keys, and bf16_row_kernels.cc gives the same bits.
#include "engine/backend/cpu/bf16_lanes.h"
#include "engine/backend/cpu/isa.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

constexpr int kComponents = 4;  // components of a value per register block

// Sums over keys. A group's part of `o` is [dim][lanes of the group], at offset lane · dim.
struct Sums {
  float* o;    // Σ p · v, not yet divided by Σ p
  float* top;  // [lanes] ⌈largest logit so far⌉
  float* sum;  // [lanes] Σ p, relative to top
};

// The workspace of a tile.
struct Tile {
  Lanes lanes;
  Sums part;         // over the keys of one split
  Sums total;        // over all splits so far
  uint32_t* p;       // [kBlock / 2][lanes of one group] pairs of keys
  uint32_t* values;  // [kBlock / 2][padded(dim)] pairs of keys
};

void lay_out_sums(const Queries& in, int64_t lanes, WorkspaceLayout& layout, Sums& sums) {
  layout.take(sums.o, lanes * in.dim);
  layout.take(sums.top, lanes);
  layout.take(sums.sum, lanes);
}

int64_t lay_out(const Queries& in, float* memory, Tile& tile) {
  WorkspaceLayout layout(memory);
  lay_out_lanes(in, layout, tile.lanes);
  lay_out_sums(in, tile.lanes.count, layout, tile.part);
  lay_out_sums(in, tile.lanes.count, layout, tile.total);
  layout.take(tile.p, kBlock / 2 * kMostVecs * kLanes);
  layout.take(tile.values, kBlock / 2 * padded(in.dim));
  return layout.used();
}

void clear(const Sums& sums, int64_t lanes, int32_t dim) {
  for (int64_t lane = 0; lane < lanes; ++lane) {
    sums.top[lane] = kLowest;
    sums.sum[lane] = 0;
  }
  for (int64_t i = 0; i < lanes * dim; ++i) sums.o[i] = 0;
}

// Adds the sums of a split to those of the splits before, with the same arithmetic as for a single
// row (bf16_row_kernels.cc).
void add(const Lanes& lanes, int32_t dim, const Sums& part, const Sums& total) {
  for_each_group(lanes, [&](auto vecs, int64_t begin) {
    constexpr int64_t width = vecs.value * kLanes;
    for (int64_t lane = begin; lane < begin + width; lane += kLanes) {
      const Vec before = load(total.top + lane), other = load(part.top + lane);
      const Vec after = _mm512_max_ps(other, before);
      const Vec scale = power_of_two(before - after), other_scale = power_of_two(other - after);
      store(total.top + lane, after);
      store(total.sum + lane,
            add_sums(load(total.sum + lane), scale, load(part.sum + lane), other_scale));
      for (int32_t d = 0; d < dim; ++d) {
        const int64_t at = begin * dim + d * width + lane - begin;
        store(total.o + at, add_sums(load(total.o + at), scale, load(part.o + at), other_scale));
      }
    }
  });
}

// Finds the block of keys from `first` on and the rows to prefetch; does nothing past the end of
// the list.
void next_block(const CachedRows& cache, const KeyList& list, int32_t first, int32_t dim,
                KeyBlock& block, AheadOfBlock& ahead) {
  if (first >= count(list)) return;
  find_keys(cache, list, first, block);
  look_ahead(block, cache.keys, cache.format, cache.key_stride, dim, ahead.keys);
  look_ahead(block, cache.values, cache.format, cache.value_stride, dim, ahead.values);
}

// Components [d, d + 32) of a row of values.
KASCADE_INLINE PairVec value_halves(const void* row, CacheFormat format, int64_t d, int32_t dim) {
  if (format == CacheFormat::kInt8) {
    return widen_levels(static_cast<const int8_t*>(row) + d, dim - d, scale_of(row, format, dim));
  }
  return load_halves(static_cast<const uint16_t*>(row) + d, first_halves(dim - d));
}

// Writes the values of a block as pairs of keys; an odd last key is paired with 0.
void fetch_values(const KeyBlock& block, const CachedRows& cache, int32_t dim, uint32_t* values) {
  const auto* data = static_cast<const char*>(cache.values);
  const int64_t stride = cache.value_stride * element_size(cache.format);
  for (int j = 0; j < block.count; j += 2) {
    const char* first = data + block.row[j] * stride;
    const char* second = j + 1 < block.count ? data + block.row[j + 1] * stride : nullptr;
    uint32_t* to = values + j / 2 * padded(dim);
    for (int32_t d = 0; d < dim; d += kHalves) {
      const PairVec none = _mm512_setzero_si512();
      const Interleaved both =
          interleave(value_halves(first, cache.format, d, dim),
                     second == nullptr ? none : value_halves(second, cache.format, d, dim));
      store_pairs(to + d, both.low);
      if (d + kLanes < dim) store_pairs(to + d + kLanes, both.high);
    }
  }
}

// Multiplies o by `scale` for one vector of queries, in rows that are `width` apart.
void rescale(float* o, int64_t width, int32_t dim, Vec scale) {
  for (int32_t d = 0; d < dim; ++d) store(o + d * width, load(o + d * width) * scale);
}

// Raises `top` to the largest logits of the block and rescales the earlier sums to it.
KASCADE_INLINE void raise(Vec largest, int64_t width, int32_t dim, float* top, float* sum,
                          float* o) {
  const Vec before = load(top);
  const Vec after = _mm512_max_ps(ceiling(largest), before);
  if (_mm512_cmpneq_ps_mask(before, after) == 0) return;
  const Vec scale = power_of_two(before - after);
  store(top, after);
  store(sum, load(sum) * scale);
  rescale(o, width, dim, scale);
}

// o[d … d + kCount) += Σ_j p[j] · v[j]
template <int kVecs, int kCount>
KASCADE_INLINE void add_values(const uint32_t* p, const uint32_t* values, int64_t value_width,
                               int pairs, int32_t d, float* o) {
  constexpr int64_t width = kVecs * kLanes;
  Vec sum[kCount][kVecs];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) sum[i][v] = load(o + (d + i) * width + v * kLanes);
  }
  for (int j = 0; j < pairs; ++j) {
    PairVec weight[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) weight[v] = load_pairs(p + j * width + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      const PairVec value = broadcast_pair(values + j * value_width + d + i);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[i][v] = add_products(sum[i][v], weight[v], value);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) store(o + (d + i) * width + v * kLanes, sum[i][v]);
  }
}

template <int kVecs>
void attend_group(const Tile& tile, int64_t lane, const Keys& keys, const AheadOfBlock& ahead,
                  int32_t dim) {
  constexpr int64_t width = kVecs * kLanes;
  const Sums& sums = tile.part;
  float* o = sums.o + lane * dim;
  alignas(64) float largest[width];
  logits_of_group<kVecs>(tile.lanes, lane, keys, ahead, largest);
  for (int v = 0; v < kVecs; ++v) {
    const int at = v * kLanes;
    raise(load(largest + at), width, dim, sums.top + lane + at, sums.sum + lane + at, o + at);
    exponentiate(tile.lanes.logits + at, keys.count, width, load(sums.top + lane + at), tile.p + at,
                 sums.sum + lane + at);
  }
  const int pairs = (keys.count + 1) / 2;
  int32_t d = 0;
  for (; d + kComponents <= dim; d += kComponents) {
    add_values<kVecs, kComponents>(tile.p, tile.values, padded(dim), pairs, d, o);
  }
  for (; d < dim; ++d) add_values<kVecs, 1>(tile.p, tile.values, padded(dim), pairs, d, o);
}

// Transposes the results of one vector of queries back to rows.
void write_vector(const Queries& in, int64_t lane, int64_t width, const float* o, Vec scale,
                  float* out, int64_t out_stride) {
  const int64_t queries = static_cast<int64_t>(in.rows) * in.heads;
  for (int32_t d = 0; d < in.dim; d += kLanes) {
    PairVec rows[kLanes] = {};
    for (int i = 0; i < kLanes && d + i < in.dim; ++i) {
      rows[i] = reinterpret_cast<PairVec>(load(o + (d + i) * width) * scale);
    }
    transpose(rows);
    for (int64_t i = 0; i < kLanes && lane + i < queries; ++i) {
      const int64_t query = lane + i;
      float* to = out + query / in.heads * out_stride + query % in.heads * in.dim + d;
      _mm512_mask_storeu_epi32(to, first_lanes(in.dim - d), rows[i]);
    }
  }
}

void write_output(const Queries& in, const Tile& tile, float* out, int64_t out_stride) {
  for_each_group(tile.lanes, [&](auto vecs, int64_t begin) {
    constexpr int64_t width = vecs.value * kLanes;
    for (int64_t at = 0; at < width; at += kLanes) {
      const Vec sum = load(tile.total.sum + begin + at);
      const Vec scale = sum == Vec{} ? Vec{} : 1.0f / sum;
      write_vector(in, begin + at, width, tile.total.o + begin * in.dim + at, scale, out,
                   out_stride);
    }
  });
}

}  // namespace

int64_t bf16_tile_workspace_size(const Queries& queries) {
  Tile tile;
  return lay_out(queries, nullptr, tile);
}

void attend_bf16_tile(const Queries& queries, const CachedRows& cache, const KeyList& list,
                      float* out, int64_t out_stride, float* workspace) {
  Tile tile;
  lay_out(queries, workspace, tile);
  load_queries(queries, tile.lanes);
  clear(tile.total, tile.lanes.count, queries.dim);
  KeyBlock block;
  AheadOfBlock ahead;
  next_block(cache, list, 0, queries.dim, block, ahead);
  for (int32_t first = 0; first < count(list); first += kBlock) {
    if (first % kKeySplit == 0) clear(tile.part, tile.lanes.count, queries.dim);
    Keys keys;
    fetch_keys(block, cache, queries.dim, tile.lanes, keys);
    fetch_values(block, cache, queries.dim, tile.values);
    next_block(cache, list, first + kBlock, queries.dim, block, ahead);
    for_each_group(tile.lanes, [&](auto vecs, int64_t lane) {
      attend_group<vecs.value>(tile, lane, keys, ahead, queries.dim);
      ahead.keys.count = ahead.values.count = 0;
    });
    const int32_t next = first + kBlock;
    if (next % kKeySplit == 0 || next >= count(list)) {
      add(tile.lanes, queries.dim, tile.part, tile.total);
    }
  }
  write_output(queries, tile, out, out_stride);
}

}  // namespace kascade::cpu::KASCADE_ISA
