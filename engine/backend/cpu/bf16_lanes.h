// The logits of a tile of queries over bf16 keys, computed with the bf16 dot product instruction.
// Each query has a vector lane (row i, head r → lane i · heads + r). A lane adds its products in a
// fixed order, two components of a key at a time. Like vector.h, this header is only for files that
// are compiled once per instruction set.
//
// The softmax uses powers of two: queries are scaled by log₂ e, and the running maximum is rounded
// up to an integer, so that rescaling earlier sums to a new maximum is exact.
#ifndef KASCADE_ENGINE_BACKEND_CPU_BF16_LANES_H_
#define KASCADE_ENGINE_BACKEND_CPU_BF16_LANES_H_

#include "engine/backend/cpu/bf16_vector.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/key_block.h"
#include "engine/backend/cpu/workspace.h"

namespace kascade::cpu::KASCADE_ISA {

constexpr int kMostVecs = 4;  // most vectors of queries that fit the registers at a time

// Keys per register block.
template <int kVecs>
constexpr int kKeys = kVecs == kMostVecs ? 4 : 8;

// The queries of a tile, laid out by lanes. A *group* is up to kMostVecs vectors of queries,
// beginning at lane `lane`. Its part of `q` is [pairs][lanes of the group], at offset lane · pairs.
struct Lanes {
  int64_t count;
  int64_t pairs;      // pairs of components: (dim + 1) / 2
  uint32_t* q;        // pairs of components, scaled by log₂ e / √D
  int32_t* position;  // [count]
  float* logits;      // [kBlock][lanes of one group], base 2
  uint32_t* keys;     // [kBlock][key_width] copies of keys, for odd dim or an int8 cache
  int64_t key_width;  // pairs, rounded up to whole vectors
};

inline void lay_out_lanes(const Queries& in, WorkspaceLayout& layout, Lanes& lanes) {
  lanes.count = padded(static_cast<int64_t>(in.rows) * in.heads);
  lanes.pairs = (in.dim + 1) / 2;
  layout.take(lanes.q, lanes.count * lanes.pairs);
  layout.take(lanes.position, lanes.count);
  layout.take(lanes.logits, kBlock * kMostVecs * kLanes);
  lanes.key_width = round_up(lanes.pairs, kLanes);
  layout.take(lanes.keys, kBlock * lanes.key_width);
}

KASCADE_INLINE int vecs_from(const Lanes& lanes, int64_t lane) {
  const int64_t left = (lanes.count - lane) / kLanes;
  return left >= kMostVecs ? kMostVecs : left >= 2 ? 2 : 1;
}

// Calls visit(Width<vectors of the group>, first lane of the group) for each group.
template <int kVecs>
struct Width {
  static constexpr int value = kVecs;
};
template <typename Visit>
KASCADE_INLINE void for_each_group(const Lanes& lanes, const Visit& visit) {
  for (int64_t lane = 0; lane < lanes.count;) {
    const int vecs = vecs_from(lanes, lane);
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

// Loads one vector of queries and writes their pairs to rows that are `width` apart.
inline void load_query_vector(const Queries& in, int64_t lane, int64_t width, uint32_t* to) {
  const int64_t queries = static_cast<int64_t>(in.rows) * in.heads;
  for (int64_t d = 0; d < in.dim; d += kHalves) {
    PairVec rows[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const int64_t query =
          lane + i < queries ? lane + i : queries - 1;  // surplus lanes repeat the last query
      const float* from = in.q + query / in.heads * in.stride + query % in.heads * in.dim + d;
      rows[i] = scaled_query(from, in.dim - d, in.dim);
    }
    transpose(rows);
    const int64_t left = (in.dim - d + 1) / 2;
    for (int64_t i = 0; i < kLanes && i < left; ++i) store_pairs(to + (d / 2 + i) * width, rows[i]);
  }
}

inline void load_queries(const Queries& in, const Lanes& lanes) {
  const int64_t queries = static_cast<int64_t>(in.rows) * in.heads;
  for (int64_t begin = 0; begin < lanes.count;) {
    const int64_t width = vecs_from(lanes, begin) * kLanes;
    for (int64_t lane = begin; lane < begin + width; lane += kLanes) {
      load_query_vector(in, lane, width, lanes.q + begin * lanes.pairs + lane - begin);
    }
    begin += width;
  }
  for (int64_t lane = 0; lane < lanes.count; ++lane) {
    const int64_t query = lane < queries ? lane : queries - 1;
    lanes.position[lane] = in.first_position + static_cast<int32_t>(query / in.heads);
  }
}

// A block of keys as the kernels read them. Entries after the last key repeat it, at a position
// that hides them from all queries.
struct Keys {
  int count;
  const uint16_t* row[kBlock];
  int32_t position[kBlock];
};

inline void fetch_keys(const KeyBlock& block, const CachedRows& cache, int32_t dim,
                       const Lanes& lanes, Keys& keys) {
  const bool int8 = cache.format == CacheFormat::kInt8, copies = int8 || dim % 2 != 0;
  keys.count = block.count;
  for (int j = 0; j < kBlock; ++j) {
    const int from = j < block.count ? j : block.count - 1;
    const char* row = static_cast<const char*>(cache.keys) +
                      block.row[from] * cache.key_stride * element_size(cache.format);
    keys.row[j] = reinterpret_cast<const uint16_t*>(row);
    keys.position[j] = j < block.count ? block.position[j] : INT32_MAX;
    if (!copies) continue;
    auto* copy = reinterpret_cast<uint16_t*>(lanes.keys + from * lanes.key_width);
    if (j == from && int8) widen_row(row, dim, copy);
    if (j == from && !int8) {
      for (int32_t d = 0; d < dim; ++d) copy[d] = keys.row[j][d];
      copy[dim] = 0;
    }
    keys.row[j] = copy;
  }
}

// The rows of the next block, which are prefetched while this one is worked on.
struct AheadOfBlock {
  Ahead keys;
  Ahead values;
};

// Computes logits[j] = k[j] · q for one register block of keys and raises `largest` to them. With
// kMasked, keys after a query's own position get −∞.
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

// Computes the logits of one group; `largest` receives the maximum of each lane.
template <int kVecs>
void logits_of_group(const Lanes& lanes, int64_t lane, const Keys& keys, const AheadOfBlock& ahead,
                     float* largest) {
  const uint32_t* q = lanes.q + lane * lanes.pairs;
  const int32_t* own = lanes.position + lane;
  const bool whole = keys.count % kKeys<kVecs> == 0;
  if (whole && keys.position[keys.count - 1] <= own[0]) {
    dot_keys<kVecs, false>(q, lanes.pairs, keys, ahead, own, lanes.logits, largest);
  } else {
    dot_keys<kVecs, true>(q, lanes.pairs, keys, ahead, own, lanes.logits, largest);
  }
}

// Turns the logits of one vector of queries (rows `width` apart) into pairs of 2^(logit − top) in
// bf16 and adds these rounded values to `sum`.
inline void exponentiate(const float* logits, int count, int64_t width, Vec top, uint32_t* p,
                         float* sum) {
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

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_BF16_LANES_H_
