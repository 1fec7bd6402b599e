// The logits of one row of queries over bf16 keys, computed with the bf16 dot product instruction.
// Keys are transposed so that each key has a vector lane. The products of a logit are then added in
// the same order as in bf16_lanes.h. Like vector.h, this header is only for files that are compiled
// once per instruction set.
#ifndef KASCADE_ENGINE_BACKEND_CPU_BF16_ROW_H_
#define KASCADE_ENGINE_BACKEND_CPU_BF16_ROW_H_

#include "engine/backend/cpu/bf16_vector.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/key_block.h"

namespace kascade::cpu::KASCADE_ISA {

constexpr int kMostHeads = 4;  // most heads at a time

// Writes the queries of one row as [heads][width] bf16, scaled by log₂ e / √D; components from dim
// on are 0.
inline void load_row_queries(const Queries& in, int64_t width, uint16_t* q) {
  for (int32_t head = 0; head < in.heads; ++head) {
    for (int64_t d = 0; d < in.dim; d += kHalves) {
      store_pairs(q + head * width + d, scaled_query(in.q + head * in.dim + d, in.dim - d, in.dim));
    }
  }
}

// Calls visit(Heads<number of heads>, first head) for runs of up to kMostHeads heads.
template <int kHeads>
struct Heads {
  static constexpr int value = kHeads;
};
template <typename Visit>
KASCADE_INLINE void for_each_heads(int32_t heads, const Visit& visit) {
  for (int32_t head = 0; head < heads; head += kMostHeads) {
    const int32_t left = heads - head;
    if (left >= kMostHeads) {
      visit(Heads<kMostHeads>{}, head);
    } else if (left == 3) {
      visit(Heads<3>{}, head);
    } else if (left == 2) {
      visit(Heads<2>{}, head);
    } else {
      visit(Heads<1>{}, head);
    }
  }
}

// Pointers to the rows of a block of keys; entries after the last key repeat it. Rows of an int8
// cache are int8 until widen_rows() replaces them by copies.
struct BlockRows {
  int count = 0;
  const uint16_t* keys[kBlock];
  const uint16_t* values[kBlock];
};

inline void find_rows(const CachedRows& cache, const KeyList& list, int32_t first,
                      BlockRows& rows) {
  rows.count = 0;
  if (first >= count(list)) return;
  KeyBlock block;
  find_keys(cache, list, first, block);
  for (int j = block.count; j < kBlock; ++j) block.row[j] = block.row[block.count - 1];
  rows.count = block.count;
  const int64_t size = element_size(cache.format);
  const auto row_at = [&](const void* data, int64_t stride, int j) {
    const char* row = static_cast<const char*>(data) + block.row[j] * stride * size;
    return reinterpret_cast<const uint16_t*>(row);
  };
  for (int j = 0; j < kBlock; ++j) rows.keys[j] = row_at(cache.keys, cache.key_stride, j);
  for (int j = 0; j < kBlock; ++j) rows.values[j] = row_at(cache.values, cache.value_stride, j);
}

// Converts int8 rows to bf16 at `copies`, [kBlock][width], and makes `rows` point to the copies.
inline void widen_rows(int count, int32_t dim, int64_t width, const uint16_t** rows,
                       uint16_t* copies) {
  for (int j = 0; j < count; ++j) {
    widen_row(rows[j], dim, copies + j * width);
    rows[j] = copies + j * width;
  }
  for (int j = count; j < kBlock; ++j) rows[j] = rows[count - 1];
}

// Prefetches one cache line of a row. Rows are too scattered for the hardware prefetcher, and many
// prefetches at once would wait for each other, so a kernel issues one with each key that it works
// on. The line goes to the second-level cache, because the first level has too few buffers for
// lines in flight.
KASCADE_INLINE void ask(const uint16_t* row) {
  constexpr int kSecondLevel = 2;
  __builtin_prefetch(row, 0, kSecondLevel);
}

// Prefetches all rows of the first block, before which there was none to prefetch it.
inline void ask_all(const BlockRows& rows, int32_t dim) {
  for (int j = 0; j < rows.count; ++j) {
    for (int32_t d = 0; d < dim; d += kHalves) {
      ask(rows.keys[j] + d);
      ask(rows.values[j] + d);
    }
  }
}

// Computes logits[h][j] = q[h] · k[j] in rows that are `stride` apart, −∞ after the last key. Works
// on two vectors of keys at a time, because with one each addition would wait for the one before.
template <int kHeads>
void dot_rows(const uint16_t* q, int64_t width, const uint16_t* const* keys, int count, int32_t dim,
              const uint16_t* const* next, int64_t stride, float* logits) {
  constexpr int kVecs = 2;
  for (int j = 0; j < count; j += kVecs * kLanes) {
    Vec dots[kVecs][kHeads] = {};
    for (int64_t d = 0; d < dim; d += kHalves) {
      const __mmask32 kept = first_halves(dim - d);
      PairVec part[kVecs][kLanes];
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          part[v][i] = load_halves(keys[j + v * kLanes + i] + d, kept);
        }
        transpose(part[v]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (next != nullptr) {
          for (int v = 0; v < kVecs; ++v) ask(next[j + kVecs * i + v] + d);
        }
#pragma GCC unroll 4
        for (int h = 0; h < kHeads; ++h) {
          const PairVec component = broadcast_pair(q + h * width + d + 2 * i);
#pragma GCC unroll 2
          for (int v = 0; v < kVecs; ++v) {
            dots[v][h] = add_products(dots[v][h], part[v][i], component);
          }
        }
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      for (int v = 0; v < kVecs; ++v) {
        const int at = j + v * kLanes;
        store(logits + h * stride + at,
              _mm512_mask_mov_ps(broadcast(-kInfinity), first_lanes(count - at), dots[v][h]));
      }
    }
  }
}

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_BF16_ROW_H_
