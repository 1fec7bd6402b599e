// Attention of a tile of rows, with one vector lane per query (row i, head r → lane i · heads + r).
// Keys and values are read component by component, as they lie in the cache, and broadcast. The
// softmax never adds across lanes, so the bits of a query's result do not depend on the other
// queries.
#include "engine/backend/cpu/isa.h"
#include "engine/backend/cpu/key_block.h"
#include "engine/backend/cpu/vector.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

constexpr int kMostVecs = kLanes == 16 ? 4 : 2;  // most vectors of queries that fit the registers
constexpr int kStep = 4;                         // keys or components per register block

// The workspace of a tile. A *group* is up to kMostVecs vectors of queries, beginning at lane
// `lane`. Its part of `q` and of `o` is [dim][lanes of the group], at offset lane · dim.
struct Tile {
  int64_t lanes;
  float* q;           // scaled by 1/√D
  float* o;           // Σ p · v, not yet divided by Σ p
  float* logits;      // [kBlock][lanes of one group]
  float* top;         // [lanes] largest logit so far
  float* sum;         // [lanes] Σ p, relative to top
  int32_t* position;  // [lanes]
  float* keys;        // [kBlock][padded(dim)]
  float* values;
  float* pooled;  // [kBlock][kLanes]
};

// Returns the number of floats used. Addresses are computed as numbers, because a size can be asked
// for before there is any memory.
int64_t lay_out(const Queries& in, float* workspace, Tile& tile) {
  const auto begin = reinterpret_cast<uintptr_t>(workspace);
  int64_t used = 0;
  const auto take = [begin, &used](int64_t floats) {
    const uintptr_t taken = begin + static_cast<uintptr_t>(used) * sizeof(float);
    used += round_up(floats, 16);
    return reinterpret_cast<float*>(taken);
  };
  tile.lanes = padded(static_cast<int64_t>(in.rows) * in.heads);
  tile.q = take(tile.lanes * in.dim);
  tile.o = take(tile.lanes * in.dim);
  tile.logits = take(kBlock * kMostVecs * kLanes);
  tile.top = take(tile.lanes);
  tile.sum = take(tile.lanes);
  tile.position = reinterpret_cast<int32_t*>(take(tile.lanes));
  tile.keys = take(kBlock * padded(in.dim));
  tile.values = take(kBlock * padded(in.dim));
  tile.pooled = take(kBlock * kLanes);
  return used;
}

int vecs_from(const Tile& tile, int64_t lane) {
  const int64_t left = (tile.lanes - lane) / kLanes;
  return left >= kMostVecs ? kMostVecs : left >= 2 ? 2 : 1;
}

void load_queries(const Queries& in, const Tile& tile) {
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(in.dim));
  const int64_t queries = static_cast<int64_t>(in.rows) * in.heads;
  for (int64_t begin = 0; begin < tile.lanes;) {
    const int64_t width = vecs_from(tile, begin) * kLanes;
    for (int64_t lane = begin; lane < begin + width; ++lane) {
      const int64_t query =
          lane < queries ? lane : queries - 1;  // surplus lanes repeat the last query
      const float* from = in.q + query / in.heads * in.stride + query % in.heads * in.dim;
      float* to = tile.q + begin * in.dim + lane - begin;
      for (int32_t d = 0; d < in.dim; ++d) to[d * width] = from[d] * scale;
      tile.position[lane] = in.first_position + static_cast<int32_t>(query / in.heads);
      tile.top[lane] = kLowest;
      tile.sum[lane] = 0;
    }
    begin += width;
  }
  for (int64_t i = 0; i < tile.lanes * in.dim; ++i) tile.o[i] = 0;
}

// logits[j] = k[j] · q for the keys of a block.
template <int kVecs>
void dot_keys(const float* q, const float* const* keys, int count, int32_t dim, float* logits) {
  constexpr int64_t width = kVecs * kLanes;
  for (int j = 0; j < count; j += kStep) {
    Vec dot[kStep][kVecs] = {};
    for (int32_t d = 0; d < dim; ++d) {
      Vec component[kVecs];
      for (int v = 0; v < kVecs; ++v) component[v] = load(q + d * width + v * kLanes);
#pragma GCC unroll 4
      for (int i = 0; i < kStep; ++i) {
        const Vec key = broadcast(keys[j + i][d]);
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) dot[i][v] += key * component[v];
      }
    }
    for (int i = 0; i < kStep; ++i) {
      for (int v = 0; v < kVecs; ++v) store(logits + (j + i) * width + v * kLanes, dot[i][v]);
    }
  }
}

// Sets the logits of keys after a query's own position to −∞, if the block has any.
template <int kVecs>
void mask_keys(const KeyBlock& block, const int32_t* position, float* logits) {
  if (block.position[block.count - 1] <= position[0]) return;
  for (int j = 0; j < block.count; ++j) {
    for (int v = 0; v < kVecs; ++v) {
      float* at = logits + (j * kVecs + v) * kLanes;
      const IntVec own = *reinterpret_cast<const MemIntVec*>(position + v * kLanes);
      store(at, block.position[j] > own ? broadcast(-kInfinity) : load(at));
    }
  }
}

// Turns the logits of one vector of queries (rows `width` apart) into exp(logit − top) and updates
// top and sum. Returns the factor by which earlier sums must be multiplied.
Vec softmax_block(int count, int64_t width, float* logits, float* top, float* sum) {
  const Vec before = load(top);
  Vec largest = before;
  for (int j = 0; j < count; ++j) largest = max(load(logits + j * width), largest);
  Vec total{};
  for (int j = 0; j < count; ++j) {
    const Vec p = exp(load(logits + j * width) - largest);
    store(logits + j * width, p);
    total += p;
  }
  const Vec rescale = exp(before - largest);
  store(top, largest);
  store(sum, load(sum) * rescale + total);
  return rescale;
}

// Computes o[d … d + kComponents) = o · rescale + Σ_j p[j] · v[j].
template <int kVecs, int kComponents>
KASCADE_INLINE void add_values(const float* p, const float* const* values, int count, int32_t d,
                               const Vec* rescale, float* o) {
  constexpr int64_t width = kVecs * kLanes;
  Vec sum[kComponents][kVecs];
  for (int i = 0; i < kComponents; ++i) {
    for (int v = 0; v < kVecs; ++v) {
      sum[i][v] = load(o + (d + i) * width + v * kLanes) * rescale[v];
    }
  }
  for (int j = 0; j < count; ++j) {
    Vec weight[kVecs];
    for (int v = 0; v < kVecs; ++v) weight[v] = load(p + j * width + v * kLanes);
#pragma GCC unroll 4
    for (int i = 0; i < kComponents; ++i) {
      const Vec value = broadcast(values[j][d + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[i][v] += weight[v] * value;
    }
  }
  for (int i = 0; i < kComponents; ++i) {
    for (int v = 0; v < kVecs; ++v) store(o + (d + i) * width + v * kLanes, sum[i][v]);
  }
}

template <int kVecs>
void logits_of_group(const Tile& tile, int64_t lane, const KeyBlock& block,
                     const float* const* keys, int32_t dim) {
  dot_keys<kVecs>(tile.q + lane * dim, keys, block.count, dim, tile.logits);
  mask_keys<kVecs>(block, tile.position + lane, tile.logits);
}

template <int kVecs>
void attend_group(const Tile& tile, int64_t lane, const KeyBlock& block, const float* const* keys,
                  const float* const* values, int32_t dim) {
  logits_of_group<kVecs>(tile, lane, block, keys, dim);
  Vec rescale[kVecs];
  for (int v = 0; v < kVecs; ++v) {
    const int64_t at = lane + v * kLanes;
    rescale[v] = softmax_block(block.count, kVecs * kLanes, tile.logits + v * kLanes, tile.top + at,
                               tile.sum + at);
  }
  float* o = tile.o + lane * dim;
  int32_t d = 0;
  for (; d + kStep <= dim; d += kStep) {
    add_values<kVecs, kStep>(tile.logits, values, block.count, d, rescale, o);
  }
  for (; d < dim; ++d) add_values<kVecs, 1>(tile.logits, values, block.count, d, rescale, o);
}

template <int kVecs>
void scan_group(const Tile& tile, int64_t lane, const KeyBlock& block, const float* const* keys,
                int32_t dim) {
  logits_of_group<kVecs>(tile, lane, block, keys, dim);
  for (int v = 0; v < kVecs; ++v) {
    const int64_t at = lane + v * kLanes;
    softmax_block(block.count, kVecs * kLanes, tile.logits + v * kLanes, tile.top + at,
                  tile.sum + at);
  }
}

// Pools the group's probabilities into tile.pooled, by sum or maximum: one vector of partial
// results per key. tile.sum holds 1/Σ p here, and 0 for surplus lanes.
template <int kVecs>
void pool_group(const Tile& tile, int64_t lane, const KeyBlock& block, const float* const* keys,
                int32_t dim, Pool pooling) {
  logits_of_group<kVecs>(tile, lane, block, keys, dim);
  for (int j = 0; j < block.count; ++j) {
    Vec pooled = load(tile.pooled + j * kLanes);
    for (int v = 0; v < kVecs; ++v) {
      const int64_t at = lane + v * kLanes;
      const Vec logit = load(tile.logits + (j * kVecs + v) * kLanes);
      const Vec p = exp(logit - load(tile.top + at)) * load(tile.sum + at);
      pooled = pooling == Pool::kSum ? pooled + p : max(p, pooled);
    }
    store(tile.pooled + j * kLanes, pooled);
  }
}

// Calls visit(Width<kVecs>, first lane) for each group of the tile.
template <int kVecs>
struct Width {
  static constexpr int value = kVecs;
};
template <typename Visit>
KASCADE_INLINE void for_each_group(const Tile& tile, const Visit& visit) {
  for (int64_t lane = 0; lane < tile.lanes;) {
    const int vecs = vecs_from(tile, lane);
    if (vecs == 1) {
      visit(Width<1>{}, lane);
    } else if (vecs == 2) {
      visit(Width<2>{}, lane);
    } else {
      visit(Width<kMostVecs>{}, lane);
    }
    lane += vecs * kLanes;
  }
}

void write_output(const Queries& in, const Tile& tile, float* out, int64_t out_stride) {
  const int64_t queries = static_cast<int64_t>(in.rows) * in.heads;
  for (int64_t begin = 0; begin < tile.lanes;) {
    const int64_t width = vecs_from(tile, begin) * kLanes;
    for (int64_t lane = begin; lane < begin + width && lane < queries; ++lane) {
      const float* from = tile.o + begin * in.dim + lane - begin;
      float* to = out + lane / in.heads * out_stride + lane % in.heads * in.dim;
      const float scale = tile.sum[lane] == 0 ? 0 : 1.0f / tile.sum[lane];
      for (int32_t d = 0; d < in.dim; ++d) to[d] = from[d * width] * scale;
    }
    begin += width;
  }
}

// Replaces Σ p by 1/Σ p, and by 0 for the lanes after the last query.
void invert_sums(const Queries& in, const Tile& tile) {
  const int64_t queries = static_cast<int64_t>(in.rows) * in.heads;
  for (int64_t lane = 0; lane < tile.lanes; ++lane) {
    tile.sum[lane] = lane < queries ? 1.0f / tile.sum[lane] : 0;
  }
}

void write_scores(const Tile& tile, int count, Pool pooling, float* scores) {
  for (int j = 0; j < count; ++j) {
    const Vec pooled = load(tile.pooled + j * kLanes);
    scores[j] = pooling == Pool::kSum ? sum_of(pooled) : max_of(pooled);
  }
}

// Calls visit(first key, block, keys) for the blocks of all causal keys of the tile.
template <typename Visit>
KASCADE_INLINE void for_each_block(const Queries& in, const CachedRows& cache, const Tile& tile,
                                   const Visit& visit) {
  const KeyList all{0, nullptr, 0, 0, in.first_position + in.rows};
  for (int32_t first = 0; first < count(all); first += kBlock) {
    KeyBlock block;
    const float* keys[kBlock];
    find_keys(cache, all, first, block);
    fetch_rows(block, cache.keys, cache.format, cache.key_stride, in.dim, false, tile.keys, keys);
    visit(first, block, keys);
  }
}

}  // namespace

int64_t tile_workspace_size(const Queries& queries) {
  Tile tile;
  return lay_out(queries, nullptr, tile);
}

void attend_tile(const Queries& queries, const CachedRows& cache, const KeyList& list, float* out,
                 int64_t out_stride, float* workspace) {
  Tile tile;
  lay_out(queries, workspace, tile);
  load_queries(queries, tile);
  const int32_t dim = queries.dim;
  for (int32_t first = 0; first < count(list); first += kBlock) {
    KeyBlock block;
    const float* keys[kBlock];
    const float* values[kBlock];
    find_keys(cache, list, first, block);
    fetch_rows(block, cache.keys, cache.format, cache.key_stride, dim, false, tile.keys, keys);
    fetch_rows(block, cache.values, cache.format, cache.value_stride, dim, false, tile.values,
               values);
    for_each_group(tile, [&](auto width, int64_t lane) {
      attend_group<width.value>(tile, lane, block, keys, values, dim);
    });
  }
  write_output(queries, tile, out, out_stride);
}

void pool_tile(const Queries& queries, const CachedRows& cache, Pool pooling, float* scores,
               float* workspace) {
  Tile tile;
  lay_out(queries, workspace, tile);
  load_queries(queries, tile);
  const int32_t dim = queries.dim;
  // Two passes over the keys keep the workspace independent of their number. The first computes the
  // denominators.
  for_each_block(queries, cache, tile, [&](int32_t, const KeyBlock& block, const float** keys) {
    for_each_group(tile, [&](auto width, int64_t lane) {
      scan_group<width.value>(tile, lane, block, keys, dim);
    });
  });
  invert_sums(queries, tile);
  for_each_block(queries, cache, tile,
                 [&](int32_t first, const KeyBlock& block, const float** keys) {
                   for (int i = 0; i < kBlock * kLanes; ++i) tile.pooled[i] = 0;
                   for_each_group(tile, [&](auto width, int64_t lane) {
                     pool_group<width.value>(tile, lane, block, keys, dim, pooling);
                   });
                   write_scores(tile, block.count, pooling, scores + first);
                 });
}

}  // namespace kascade::cpu::KASCADE_ISA
