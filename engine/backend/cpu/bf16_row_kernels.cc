// Attention of one row over bf16 keys and values, by the bf16 dot product. The heads of the group
// share every key and value loaded, which is what decoding is bound by. Keys are turned so that
// each has a lane and values so that each component has one: the products are then added in the
// order of bf16_tile_kernels.cc, and a row gives the same bits here as in a tile.
#include "engine/backend/cpu/bf16_row.h"
#include "engine/backend/cpu/isa.h"
#include "engine/backend/cpu/scratch.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

struct Row {
  int64_t width;   // components of a row of q and o: dim, rounded up to whole vectors of bf16
  uint16_t* q;     // [heads][width], scaled by log₂ e / √D, zero from dim on
  float* o;        // [heads][width] Σ p · v, not yet divided by Σ p
  float* logits;   // [heads][kBlock], base 2
  uint16_t* p;     // [heads][kBlock]
  float* top;      // [heads] ⌈largest logit so far⌉
  float* sum;      // [heads] Σ p, relative to top
  uint16_t* keys;  // [kBlock][width] of an int8 cache
  uint16_t* values;
};

int64_t lay_out(const Queries& in, float* memory, Row& row) {
  Scratch scratch(memory);
  uint32_t *q, *p, *keys, *values;
  row.width = round_up(in.dim, kHalves);
  scratch.take(q, in.heads * row.width / 2);
  scratch.take(row.o, in.heads * row.width);
  scratch.take(row.logits, in.heads * kBlock);
  scratch.take(p, in.heads * kBlock / 2);
  scratch.take(row.top, in.heads);
  scratch.take(row.sum, in.heads);
  scratch.take(keys, kBlock * row.width / 2);
  scratch.take(values, kBlock * row.width / 2);
  row.keys = reinterpret_cast<uint16_t*>(keys);
  row.values = reinterpret_cast<uint16_t*>(values);
  row.q = reinterpret_cast<uint16_t*>(q);
  row.p = reinterpret_cast<uint16_t*>(p);
  return scratch.used();
}

void clear_sums(const Row& row, int32_t heads) {
  for (int64_t i = 0; i < heads * row.width; ++i) row.o[i] = 0;
  for (int32_t head = 0; head < heads; ++head) {
    row.top[head] = kLowest;
    row.sum[head] = 0;
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
                               int64_t dim, const uint16_t* const* next, int64_t d, int64_t width,
                               float* o, float* sums) {
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
    if (next != nullptr) {
      for (int part = 0; part < kParts; ++part) {
        ask(next[j] + d + part * kHalves);
        ask(next[j + 1] + d + part * kHalves);
      }
    }
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

// A block for kHeads heads from `head` on; the first of them ask for the next block.
template <int kHeads>
void attend_heads(const Row& row, int32_t head, int32_t dim, const BlockRows& block,
                  const BlockRows& next) {
  float* logits = row.logits + head * kBlock;
  uint16_t* p = row.p + head * kBlock;
  float* o = row.o + head * row.width;
  float* sum = row.sum + head;
  const bool asks = head == 0 && next.count > 0;
  dot_rows<kHeads>(row.q + head * row.width, row.width, block.keys, block.count, dim,
                   asks ? next.keys : nullptr, kBlock, logits);
  for (int h = 0; h < kHeads; ++h) {
    exponentiate(block.count, logits + h * kBlock, p + h * kBlock, row.width, row.top + head + h,
                 sum + h, o + h * row.width);
  }
  int64_t d = 0;
  for (; d + 2 * kHalves <= row.width; d += 2 * kHalves) {
    add_values<kHeads, 2>(p, block.values, block.count, dim, asks ? next.values : nullptr, d,
                          row.width, o, sum);
  }
  for (; d < row.width; d += kHalves) {
    add_values<kHeads, 1>(p, block.values, block.count, dim, asks ? next.values : nullptr, d,
                          row.width, o, sum);
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
  const int32_t dim = queries.dim, keys = count(list);
  BlockRows rows[2];
  find_rows(cache, list, 0, rows[0]);
  ask_all(rows[0], dim);
  load_row_queries(queries, row.width, row.q);
  clear_sums(row, queries.heads);
  for (int32_t first = 0, now = 0; first < keys; first += kBlock, now = 1 - now) {
    find_rows(cache, list, first + kBlock, rows[1 - now]);
    if (cache.format == CacheFormat::kInt8) {
      widen_rows(rows[now].count, dim, row.width, rows[now].keys, row.keys);
      widen_rows(rows[now].count, dim, row.width, rows[now].values, row.values);
    }
    for_each_heads(queries.heads, [&](auto taken, int32_t head) {
      attend_heads<taken.value>(row, head, dim, rows[now], rows[1 - now]);
    });
  }
  for (int32_t head = 0; head < queries.heads; ++head) {
    const float scale = row.sum[head] == 0 ? 0 : 1.0f / row.sum[head];
    for (int32_t d = 0; d < dim; ++d) out[head * dim + d] = row.o[head * row.width + d] * scale;
  }
}

}  // namespace kascade::cpu::KASCADE_ISA
