// Attention of one row over bf16 keys and values, by the bf16 dot product. The heads of the group
// share every key and value loaded, which is what decoding is bound by. Keys are turned so that
// each has a lane and values so that each component has one: the products are then added in the
// order of bf16_tile_kernels.cc, and a row gives the same bits here as in a tile.
#include "engine/backend/cpu/bf16_vector.h"
#include "engine/backend/cpu/isa.h"
#include "engine/backend/cpu/key_block.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

constexpr int kMostHeads = 4;  // heads at a time

struct Row {
  int64_t width;  // components of a row of q and o: dim, rounded up to whole vectors of bf16
  uint16_t* q;    // [heads][width], scaled by log₂ e / √D, zero from dim on
  float* o;       // [heads][width] Σ p · v, not yet divided by Σ p
  float* logits;  // [heads][kBlock], base 2
  uint16_t* p;    // [heads][kBlock]
  float* top;     // [heads] ⌈largest logit so far⌉
  float* sum;     // [heads] Σ p, relative to top
};

// Returns the floats used. Reckons in numbers: to ask for the size there is no memory yet.
int64_t lay_out(const Queries& in, float* scratch, Row& row) {
  const auto begin = reinterpret_cast<uintptr_t>(scratch);
  int64_t used = 0;
  const auto take = [begin, &used](int64_t floats) {
    const uintptr_t taken = begin + static_cast<uintptr_t>(used) * sizeof(float);
    used += round_up(floats, 16);
    return taken;
  };
  row.width = round_up(in.dim, kHalves);
  row.q = reinterpret_cast<uint16_t*>(take(in.heads * row.width / 2));
  row.o = reinterpret_cast<float*>(take(in.heads * row.width));
  row.logits = reinterpret_cast<float*>(take(in.heads * kBlock));
  row.p = reinterpret_cast<uint16_t*>(take(in.heads * kBlock / 2));
  row.top = reinterpret_cast<float*>(take(in.heads));
  row.sum = reinterpret_cast<float*>(take(in.heads));
  return used;
}

void load_queries(const Queries& in, const Row& row) {
  for (int32_t head = 0; head < in.heads; ++head) {
    for (int64_t d = 0; d < in.dim; d += kHalves) {
      store_pairs(row.q + head * row.width + d,
                  scaled_query(in.q + head * in.dim + d, in.dim - d, in.dim));
    }
    for (int64_t d = 0; d < row.width; ++d) row.o[head * row.width + d] = 0;
    row.top[head] = kLowest;
    row.sum[head] = 0;
  }
}

// Where a block's rows lie; past the last key it repeats that one.
struct BlockRows {
  int count = 0;
  const uint16_t* keys[kBlock];
  const uint16_t* values[kBlock];
};

void find_rows(const CachedRows& cache, const KeyList& list, int32_t first, BlockRows& rows) {
  rows.count = 0;
  if (first >= count(list)) return;
  KeyBlock block;
  find_keys(cache, list, first, block);
  for (int j = block.count; j < kBlock; ++j) block.row[j] = block.row[block.count - 1];
  rows.count = block.count;
  const auto* keys = static_cast<const uint16_t*>(cache.keys);
  const auto* values = static_cast<const uint16_t*>(cache.values);
  for (int j = 0; j < kBlock; ++j) rows.keys[j] = keys + block.row[j] * cache.key_stride;
  for (int j = 0; j < kBlock; ++j) rows.values[j] = values + block.row[j] * cache.value_stride;
}

// Rows to ask for, one with each key worked on (key_block.h says why).
struct Ask {
  int count = 0;
  int32_t dim = 0;
  const uint16_t* const* rows = nullptr;

  KASCADE_INLINE void row(int j) const {
    if (j >= count) return;
    for (int32_t d = 0; d < dim; d += kHalves) __builtin_prefetch(rows[j] + d);
  }
};

// logits[h][j] = q[h] · k[j], −∞ past the last key. Two vectors of keys at a time: one would wait
// for each sum in turn.
template <int kHeads>
void dot_keys(const uint16_t* q, int64_t width, const uint16_t* const* keys, int count, int32_t dim,
              const Ask& ask, float* logits) {
  constexpr int kVecs = 2;
  for (int j = 0; j < count; j += kVecs * kLanes) {
    for (int i = 0; i < kVecs * kLanes; ++i) ask.row(j + i);
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
        store(logits + h * kBlock + at,
              _mm512_mask_mov_ps(broadcast(-kInfinity), first_lanes(count - at), dots[v][h]));
      }
    }
  }
}

// Turns one head's logits into bf16 2^(logit − top) and brings what was summed before up to the new
// top. Writes up to the next whole vector of bf16.
void exponentiate(int count, const float* logits, uint16_t* p, int64_t width, float* top,
                  float* sum, float* o) {
  Vec largest = broadcast(-kInfinity);
  for (int j = 0; j < count; j += kLanes) largest = _mm512_max_ps(load(logits + j), largest);
  const Vec before = broadcast(*top);
  const Vec after = _mm512_max_ps(ceiling(broadcast(max_of(largest))), before);
  if (_mm512_cmpneq_ps_mask(before, after) != 0) {
    const Vec scale = power_of_two(before - after);
    *top = after[0];
    *sum *= scale[0];
    for (int64_t d = 0; d < width; d += kLanes) store(o + d, load(o + d) * scale);
  }
  for (int j = 0; j < count; j += kHalves) {
    const Vec low = rough_exp2(load(logits + j) - after);
    const bool both = j + kLanes < count;
    const Vec high = both ? rough_exp2(load(logits + j + kLanes) - after) : Vec{};
    store_pairs(p + j, narrow(low, high));
  }
}

// o[h][d … d + kParts · 32) += Σ_j p[h][j] · v[j][…]; the first components also sum p.
template <int kHeads, int kParts>
KASCADE_INLINE void add_values(const uint16_t* p, const uint16_t* const* values, int count,
                               int64_t dim, const Ask& ask, int64_t d, int64_t width, float* o,
                               float* sums) {
  Vec sum[kHeads][2 * kParts];
  __m128 total[kHeads];
#pragma GCC unroll 4
  for (int h = 0; h < kHeads; ++h) {
    total[h] = _mm_set1_ps(sums[h]);
#pragma GCC unroll 4
    for (int v = 0; v < 2 * kParts; ++v) sum[h][v] = load(o + h * width + d + v * kLanes);
  }
  __mmask32 kept[kParts];
  for (int part = 0; part < kParts; ++part) kept[part] = first_halves(dim - d - part * kHalves);
  for (int j = 0; j < count; j += 2) {
    ask.row(j);
    ask.row(j + 1);
    const bool pair = j + 1 < count;
    Interleaved value[kParts];
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      const int64_t at = d + part * kHalves;
      value[part] = interleave(load_halves(values[j] + at, kept[part]),
                               load_halves(values[j + 1] + at, pair ? kept[part] : 0));
    }
#pragma GCC unroll 4
    for (int h = 0; h < kHeads; ++h) {
      const PairVec weight = broadcast_pair(p + h * kBlock + j);
      total[h] = _mm_dpbf16_ps(total[h], reinterpret_cast<__m128bh>(_mm512_castsi512_si128(weight)),
                               reinterpret_cast<__m128bh>(_mm512_castsi512_si128(ones())));
#pragma GCC unroll 2
      for (int part = 0; part < kParts; ++part) {
        sum[h][2 * part] = add_products(sum[h][2 * part], weight, value[part].low);
        sum[h][2 * part + 1] = add_products(sum[h][2 * part + 1], weight, value[part].high);
      }
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < kHeads; ++h) {
    if (d == 0) sums[h] = total[h][0];
#pragma GCC unroll 4
    for (int v = 0; v < 2 * kParts; ++v) store(o + h * width + d + v * kLanes, sum[h][v]);
  }
}

// A block for kHeads heads from `head` on; the first of them ask ahead.
template <int kHeads>
void attend_heads(const Row& row, int32_t head, int32_t dim, const BlockRows& block,
                  const BlockRows& next) {
  float* logits = row.logits + head * kBlock;
  uint16_t* p = row.p + head * kBlock;
  float* o = row.o + head * row.width;
  float* sum = row.sum + head;
  const Ask own_values{head == 0 ? block.count : 0, dim, block.values};
  const Ask next_keys{head == 0 ? next.count : 0, dim, next.keys};
  dot_keys<kHeads>(row.q + head * row.width, row.width, block.keys, block.count, dim, own_values,
                   logits);
  for (int h = 0; h < kHeads; ++h) {
    exponentiate(block.count, logits + h * kBlock, p + h * kBlock, row.width, row.top + head + h,
                 sum + h, o + h * row.width);
  }
  int64_t d = 0;
  for (; d + 2 * kHalves <= row.width; d += 2 * kHalves) {
    add_values<kHeads, 2>(p, block.values, block.count, dim, d == 0 ? next_keys : Ask{}, d,
                          row.width, o, sum);
  }
  for (; d < row.width; d += kHalves) {
    add_values<kHeads, 1>(p, block.values, block.count, dim, d == 0 ? next_keys : Ask{}, d,
                          row.width, o, sum);
  }
}

void attend_block(const Row& row, int32_t heads, int32_t dim, const BlockRows& block,
                  const BlockRows& next) {
  for (int32_t head = 0; head < heads; head += kMostHeads) {
    const int32_t left = heads - head;
    if (left >= kMostHeads) {
      attend_heads<kMostHeads>(row, head, dim, block, next);
    } else if (left == 3) {
      attend_heads<3>(row, head, dim, block, next);
    } else if (left == 2) {
      attend_heads<2>(row, head, dim, block, next);
    } else {
      attend_heads<1>(row, head, dim, block, next);
    }
  }
}

}  // namespace

int64_t bf16_row_scratch_size(const Queries& queries) {
  Row row;
  return lay_out(queries, nullptr, row);
}

void attend_bf16_row(const Queries& queries, const CachedRows& cache, const KeyList& list,
                     float* out, float* scratch) {
  Row row;
  lay_out(queries, scratch, row);
  load_queries(queries, row);
  const int32_t dim = queries.dim, keys = count(list);
  BlockRows rows[2];
  find_rows(cache, list, 0, rows[0]);
  for (int32_t first = 0, now = 0; first < keys; first += kBlock, now = 1 - now) {
    find_rows(cache, list, first + kBlock, rows[1 - now]);
    attend_block(row, queries.heads, dim, rows[now], rows[1 - now]);
  }
  for (int32_t head = 0; head < queries.heads; ++head) {
    const float scale = row.sum[head] == 0 ? 0 : 1.0f / row.sum[head];
    for (int32_t d = 0; d < dim; ++d) out[head * dim + d] = row.o[head * row.width + d] * scale;
  }
}

}  // namespace kascade::cpu::KASCADE_ISA
