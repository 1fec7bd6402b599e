// Attention of a tile of rows over bf16 keys and values, by the bf16 dot product: one lane per
// query (row i, head r → lane i · heads + r), which adds its products in a fixed order, two
// components of a key or two keys at a time. A query's bits depend on its own keys alone, and
// bf16_row_kernels.cc gives the same.
//
// The softmax is one of powers of two: q carries log₂ e, and the maximum is rounded up to an
// integer, so that bringing old sums up to a new maximum is exact.
#include "engine/backend/cpu/bf16_vector.h"
#include "engine/backend/cpu/isa.h"
#include "engine/backend/cpu/key_block.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

constexpr int kMostVecs = 4;    // vectors of queries that the registers hold
constexpr int kComponents = 4;  // of a value per register block

// Keys per register block.
template <int kVecs>
constexpr int kKeys = kVecs == kMostVecs ? 4 : 8;

// Scratch of a tile. A *group* is up to kMostVecs vectors of queries, from lane `lane` on; its
// parts of `q` and `o` are [pairs] and [dim][lanes of the group] at lane · pairs and lane · dim.
struct Tile {
  int64_t lanes;
  int64_t pairs;      // of components: (dim + 1) / 2
  uint32_t* q;        // pairs, scaled by log₂ e / √D
  float* o;           // Σ p · v, not yet divided by Σ p
  float* logits;      // [kBlock][lanes of one group], base 2
  uint32_t* p;        // [kBlock / 2][lanes of one group] pairs of keys
  float* top;         // [lanes] ⌈largest logit so far⌉
  float* sum;         // [lanes] Σ p, relative to top
  int32_t* position;  // [lanes]
  uint16_t* keys;     // [kBlock][2 · pairs], for odd dim
  uint32_t* values;   // [kBlock / 2][padded(dim)] pairs of keys
};

// Returns the floats used. Reckons in numbers: to ask for the size there is no memory yet.
int64_t lay_out(const Queries& in, float* scratch, Tile& tile) {
  const auto begin = reinterpret_cast<uintptr_t>(scratch);
  int64_t used = 0;
  const auto take = [begin, &used](int64_t floats) {
    const uintptr_t taken = begin + static_cast<uintptr_t>(used) * sizeof(float);
    used += round_up(floats, 16);
    return taken;
  };
  tile.lanes = padded(static_cast<int64_t>(in.rows) * in.heads);
  tile.pairs = (in.dim + 1) / 2;
  tile.q = reinterpret_cast<uint32_t*>(take(tile.lanes * tile.pairs));
  tile.o = reinterpret_cast<float*>(take(tile.lanes * in.dim));
  tile.logits = reinterpret_cast<float*>(take(kBlock * kMostVecs * kLanes));
  tile.p = reinterpret_cast<uint32_t*>(take(kBlock / 2 * kMostVecs * kLanes));
  tile.top = reinterpret_cast<float*>(take(tile.lanes));
  tile.sum = reinterpret_cast<float*>(take(tile.lanes));
  tile.position = reinterpret_cast<int32_t*>(take(tile.lanes));
  tile.keys = reinterpret_cast<uint16_t*>(take(in.dim % 2 == 0 ? 0 : kBlock * tile.pairs));
  tile.values = reinterpret_cast<uint32_t*>(take(kBlock / 2 * padded(in.dim)));
  return used;
}

int vecs_from(const Tile& tile, int64_t lane) {
  const int64_t left = (tile.lanes - lane) / kLanes;
  return left >= kMostVecs ? kMostVecs : left >= 2 ? 2 : 1;
}

// One vector of queries: their pairs go to rows `width` apart.
void load_query_vector(const Queries& in, int64_t lane, int64_t width, uint32_t* to) {
  const int64_t queries = static_cast<int64_t>(in.rows) * in.heads;
  for (int64_t d = 0; d < in.dim; d += kHalves) {
    PairVec rows[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const int64_t query =
          lane + i < queries ? lane + i : queries - 1;  // the rest repeat the last
      const float* from = in.q + query / in.heads * in.stride + query % in.heads * in.dim + d;
      rows[i] = scaled_query(from, in.dim - d, in.dim);
    }
    transpose(rows);
    const int64_t left = (in.dim - d + 1) / 2;
    for (int64_t i = 0; i < kLanes && i < left; ++i) store_pairs(to + (d / 2 + i) * width, rows[i]);
  }
}

void load_queries(const Queries& in, const Tile& tile) {
  const int64_t queries = static_cast<int64_t>(in.rows) * in.heads;
  for (int64_t begin = 0; begin < tile.lanes;) {
    const int64_t width = vecs_from(tile, begin) * kLanes;
    for (int64_t lane = begin; lane < begin + width; lane += kLanes) {
      load_query_vector(in, lane, width, tile.q + begin * tile.pairs + lane - begin);
    }
    begin += width;
  }
  for (int64_t lane = 0; lane < tile.lanes; ++lane) {
    const int64_t query = lane < queries ? lane : queries - 1;
    tile.position[lane] = in.first_position + static_cast<int32_t>(query / in.heads);
    tile.top[lane] = kLowest;
    tile.sum[lane] = 0;
  }
  for (int64_t i = 0; i < tile.lanes * in.dim; ++i) tile.o[i] = 0;
}

// A block's keys as the kernels read them; those past the last one repeat it, hidden from all.
struct Keys {
  int count;
  const uint16_t* row[kBlock];
  int32_t position[kBlock];
};

// The rows of the next block, asked for with each key of this one.
struct AheadOfBlock {
  Ahead keys;
  Ahead values;
};

void fetch_keys(const KeyBlock& block, const CachedRows& cache, const Queries& in, const Tile& tile,
                Keys& keys) {
  const auto* data = static_cast<const uint16_t*>(cache.keys);
  keys.count = block.count;
  for (int j = 0; j < kBlock; ++j) {
    const int from = j < block.count ? j : block.count - 1;
    keys.row[j] = data + block.row[from] * cache.key_stride;
    keys.position[j] = j < block.count ? block.position[j] : INT32_MAX;
    if (in.dim % 2 == 0) continue;
    uint16_t* copy = tile.keys + from * 2 * tile.pairs;
    if (j == from) {
      for (int32_t d = 0; d < in.dim; ++d) copy[d] = keys.row[j][d];
      copy[in.dim] = 0;
    }
    keys.row[j] = copy;
  }
}

// The block of keys from `first` on, and its rows ahead; nothing past the end of the list.
void next_block(const CachedRows& cache, const KeyList& list, int32_t first, int32_t dim,
                KeyBlock& block, AheadOfBlock& ahead) {
  if (first >= count(list)) return;
  find_keys(cache, list, first, block);
  look_ahead(block, cache.keys, true, cache.key_stride, dim, ahead.keys);
  look_ahead(block, cache.values, true, cache.value_stride, dim, ahead.values);
}

// Pairs of a block's values, the last alone with 0.
void fetch_values(const KeyBlock& block, const CachedRows& cache, int32_t dim, uint32_t* values) {
  const auto* data = static_cast<const uint16_t*>(cache.values);
  for (int j = 0; j < block.count; j += 2) {
    const uint16_t* first = data + block.row[j] * cache.value_stride;
    const bool pair = j + 1 < block.count;
    const uint16_t* second = pair ? data + block.row[j + 1] * cache.value_stride : first;
    uint32_t* to = values + j / 2 * padded(dim);
    for (int32_t d = 0; d < dim; d += kHalves) {
      const __mmask32 kept = first_halves(dim - d);
      const Interleaved both =
          interleave(load_halves(first + d, kept), load_halves(second + d, pair ? kept : 0));
      store_pairs(to + d, both.low);
      if (d + kLanes < dim) store_pairs(to + d + kLanes, both.high);
    }
  }
}

// logits[j] = k[j] · q for one register block of keys; `largest` keeps up. With kMasked, keys after
// a query's own position get −∞.
template <int kVecs, bool kMasked>
KASCADE_INLINE void dot_step(const uint32_t* q, int64_t pairs, const Keys& keys, int j,
                             const int32_t* own, float* logits, Vec* largest) {
  constexpr int64_t width = kVecs * kLanes;
  constexpr int kStep = kKeys<kVecs>;
  Vec dot[kStep][kVecs] = {};
  for (int64_t d = 0; d < pairs; ++d) {
    PairVec component[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) component[v] = load_pairs(q + d * width + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kStep; ++i) {
      const PairVec key = broadcast_pair(keys.row[j + i] + 2 * d);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) dot[i][v] = add_products(dot[i][v], key, component[v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kStep; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      Vec logit = dot[i][v];
      if constexpr (kMasked) {
        const __mmask16 hidden = _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(keys.position[j + i]),
                                                         load_pairs(own + v * kLanes));
        logit = _mm512_mask_mov_ps(logit, hidden, broadcast(-kInfinity));
      }
      largest[v] = _mm512_max_ps(logit, largest[v]);
      store(logits + (j + i) * width + v * kLanes, logit);
    }
  }
}

template <int kVecs, bool kMasked>
void dot_keys(const uint32_t* q, int64_t pairs, const Keys& keys, const AheadOfBlock& ahead,
              const int32_t* own, float* logits, float* largest) {
  Vec most[kVecs];
  for (int v = 0; v < kVecs; ++v) most[v] = broadcast(-kInfinity);
  for (int j = 0; j < keys.count; j += kKeys<kVecs>) {
    for (int i = 0; i < kKeys<kVecs>; ++i) {
      ahead.keys.ask(j + i);
      ahead.values.ask(j + i);
    }
    dot_step<kVecs, kMasked>(q, pairs, keys, j, own, logits, most);
  }
  for (int v = 0; v < kVecs; ++v) store(largest + v * kLanes, most[v]);
}

// o · scale for one vector of queries in rows `width` apart.
void rescale(float* o, int64_t width, int32_t dim, Vec scale) {
  for (int32_t d = 0; d < dim; ++d) store(o + d * width, load(o + d * width) * scale);
}

// Raises `top` to the block's largest logits and brings what was summed before up to it.
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

// The logits of one vector of queries (rows `width` apart) → pairs of 2^(logit − top) in bf16. The
// sum is that of the rounded ones.
void exponentiate(const float* logits, int count, int64_t width, Vec top, uint32_t* p, float* sum) {
  Vec total = load(sum);
#pragma GCC unroll 2
  for (int j = 0; j < count; j += 2) {
    const Vec first = rough_exp2(load(logits + j * width) - top);
    const Vec second = rough_exp2(load(logits + (j + 1) * width) - top);
    const PairVec pair = narrow_to_pairs(first, second);
    total = add_products(total, pair, ones());
    store_pairs(p + j / 2 * width, pair);
  }
  store(sum, total);
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
  const int count = keys.count;
  constexpr int64_t width = kVecs * kLanes;
  const uint32_t* q = tile.q + lane * tile.pairs;
  const int32_t* own = tile.position + lane;
  float* o = tile.o + lane * dim;
  alignas(64) float largest[width];
  const bool masked =
      count % kKeys<kVecs> != 0 || count % 2 != 0 || keys.position[count - 1] > own[0];
  if (masked) {
    dot_keys<kVecs, true>(q, tile.pairs, keys, ahead, own, tile.logits, largest);
  } else {
    dot_keys<kVecs, false>(q, tile.pairs, keys, ahead, own, tile.logits, largest);
  }
  for (int v = 0; v < kVecs; ++v) {
    const int at = v * kLanes;
    raise(load(largest + at), width, dim, tile.top + lane + at, tile.sum + lane + at, o + at);
    exponentiate(tile.logits + at, count, width, load(tile.top + lane + at), tile.p + at,
                 tile.sum + lane + at);
  }
  const int pairs = (count + 1) / 2;
  int32_t d = 0;
  for (; d + kComponents <= dim; d += kComponents) {
    add_values<kVecs, kComponents>(tile.p, tile.values, padded(dim), pairs, d, o);
  }
  for (; d < dim; ++d) add_values<kVecs, 1>(tile.p, tile.values, padded(dim), pairs, d, o);
}

void attend_groups(const Tile& tile, const Keys& keys, AheadOfBlock& ahead, int32_t dim) {
  for (int64_t lane = 0; lane < tile.lanes;) {
    const int vecs = vecs_from(tile, lane);
    if (vecs == 1) {
      attend_group<1>(tile, lane, keys, ahead, dim);
    } else if (vecs == 2) {
      attend_group<2>(tile, lane, keys, ahead, dim);
    } else {
      attend_group<kMostVecs>(tile, lane, keys, ahead, dim);
    }
    lane += vecs * kLanes;
    ahead.keys.count = ahead.values.count = 0;
  }
}

// One vector of queries back to rows.
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
  for (int64_t begin = 0; begin < tile.lanes;) {
    const int64_t width = vecs_from(tile, begin) * kLanes;
    for (int64_t lane = begin; lane < begin + width; lane += kLanes) {
      const Vec sum = load(tile.sum + lane);
      const Vec scale = sum == Vec{} ? Vec{} : 1.0f / sum;
      write_vector(in, lane, width, tile.o + begin * in.dim + lane - begin, scale, out, out_stride);
    }
    begin += width;
  }
}

}  // namespace

int64_t bf16_tile_scratch_size(const Queries& queries) {
  Tile tile;
  return lay_out(queries, nullptr, tile);
}

void attend_bf16_tile(const Queries& queries, const CachedRows& cache, const KeyList& list,
                      float* out, int64_t out_stride, float* scratch) {
  Tile tile;
  lay_out(queries, scratch, tile);
  load_queries(queries, tile);
  KeyBlock block;
  AheadOfBlock ahead;
  next_block(cache, list, 0, queries.dim, block, ahead);
  for (int32_t first = 0; first < count(list); first += kBlock) {
    Keys keys;
    fetch_keys(block, cache, queries, tile, keys);
    fetch_values(block, cache, queries.dim, tile.values);
    next_block(cache, list, first + kBlock, queries.dim, block, ahead);
    attend_groups(tile, keys, ahead, queries.dim);
  }
  write_output(queries, tile, out, out_stride);
}

}  // namespace kascade::cpu::KASCADE_ISA
