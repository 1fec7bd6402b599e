// Attention of one row over bf16 keys and values with the bf16 dot product. The query heads of the
// group share every key and value that is loaded, since decoding is bound by memory bandwidth. Keys
// are transposed so that each key has a lane, and values so that each component has one. Products
// are then added in the order of bf16_tile_kernels.cc, and a row gives the same bits here as in a
// tile.
#include "engine/backend/cpu/bf16_row.h"
#include "engine/backend/cpu/isa.h"
#include "engine/backend/cpu/workspace.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

// Sums over keys.
struct Sums {
  float* o;    // [heads][width] Σ p · v, not yet divided by Σ p
  float* top;  // [heads] ⌈largest logit so far⌉
  float* sum;  // [heads] Σ p, relative to top
};

struct Row {
  int64_t width;     // components of a row of q and o: dim, rounded up to whole vectors of bf16
  uint16_t* q;       // [heads][width], scaled by log₂ e / √D, zero from dim on
  Sums part;         // over the keys of one split
  Sums total;        // over all splits so far
  float* logits;     // [heads][kBlock], base 2
  uint16_t* p;       // [heads][kBlock]
  uint16_t* keys;    // [kBlock][width] copies of the keys of an int8 cache
  uint16_t* values;  // likewise
};

void lay_out_sums(const Queries& in, WorkspaceLayout& layout, Sums& sums) {
  layout.take(sums.o, in.heads * round_up(in.dim, kHalves));
  layout.take(sums.top, in.heads);
  layout.take(sums.sum, in.heads);
}

int64_t lay_out(const Queries& in, float* memory, Row& row) {
  WorkspaceLayout layout(memory);
  uint32_t *q, *p, *keys, *values;
  row.width = round_up(in.dim, kHalves);
  layout.take(q, in.heads * row.width / 2);
  lay_out_sums(in, layout, row.part);
  lay_out_sums(in, layout, row.total);
  layout.take(row.logits, in.heads * kBlock);
  layout.take(p, in.heads * kBlock / 2);
  layout.take(keys, kBlock * row.width / 2);
  layout.take(values, kBlock * row.width / 2);
  row.keys = reinterpret_cast<uint16_t*>(keys);
  row.values = reinterpret_cast<uint16_t*>(values);
  row.q = reinterpret_cast<uint16_t*>(q);
  row.p = reinterpret_cast<uint16_t*>(p);
  return layout.used();
}

void clear(const Sums& sums, int32_t heads, int64_t width) {
  for (int64_t i = 0; i < heads * width; ++i) sums.o[i] = 0;
  for (int32_t head = 0; head < heads; ++head) {
    sums.top[head] = kLowest;
    sums.sum[head] = 0;
  }
}

void add(const Sums& part, int32_t heads, int64_t width, const Sums& total) {
  for (int32_t head = 0; head < heads; ++head) {
    const Vec before = broadcast(total.top[head]), other = broadcast(part.top[head]);
    const Vec after = _mm512_max_ps(other, before);
    const Vec scale = power_of_two(before - after), other_scale = power_of_two(other - after);
    float* o = total.o + head * width;
    const float* added = part.o + head * width;
    for (int64_t d = 0; d < width; d += kLanes) {
      store(o + d, add_sums(load(o + d), scale, load(added + d), other_scale));
    }
    const Vec sum = broadcast(total.sum[head]), other_sum = broadcast(part.sum[head]);
    total.sum[head] = add_sums(sum, scale, other_sum, other_scale)[0];
    total.top[head] = after[0];
  }
}

// Turns the logits of one head into bf16 values 2^(logit − top) and rescales the earlier sums to
// the new top. Writes up to the next whole vector of bf16.
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

// Attends to one block for kHeads heads from `head` on; the call for the first heads also
// prefetches the next block.
template <int kHeads>
void attend_heads(const Row& row, int32_t head, int32_t dim, const BlockRows& block,
                  const BlockRows& next) {
  float* logits = row.logits + head * kBlock;
  uint16_t* p = row.p + head * kBlock;
  float* o = row.part.o + head * row.width;
  float* sum = row.part.sum + head;
  const bool asks = head == 0 && next.count > 0;
  dot_rows<kHeads>(row.q + head * row.width, row.width, block.keys, block.count, dim,
                   asks ? next.keys : nullptr, kBlock, logits);
  for (int h = 0; h < kHeads; ++h) {
    exponentiate(block.count, logits + h * kBlock, p + h * kBlock, row.width,
                 row.part.top + head + h, sum + h, o + h * row.width);
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

// Writes the sums over one split of the keys, from `begin` on, to row.part.
void attend_split(const Row& row, const Queries& queries, const CachedRows& cache,
                  const KeyList& list, int32_t begin) {
  const int32_t dim = queries.dim, left = count(list) - begin;
  const int32_t end = begin + (left < kKeySplit ? left : kKeySplit);
  clear(row.part, queries.heads, row.width);
  BlockRows rows[2];
  find_rows(cache, list, begin, rows[0]);
  ask_all(rows[0], dim);
  for (int32_t first = begin, now = 0; first < end; first += kBlock, now = 1 - now) {
    find_rows(cache, list, first + kBlock, rows[1 - now]);
    if (cache.format == CacheFormat::kInt8) {
      widen_rows(rows[now].count, dim, row.width, rows[now].keys, row.keys);
      widen_rows(rows[now].count, dim, row.width, rows[now].values, row.values);
    }
    for_each_heads(queries.heads, [&](auto taken, int32_t head) {
      attend_heads<taken.value>(row, head, dim, rows[now], rows[1 - now]);
    });
  }
}

void write_output(const Row& row, const Queries& queries, float* out) {
  for (int32_t head = 0; head < queries.heads; ++head) {
    const float sum = row.total.sum[head], scale = sum == 0 ? 0 : 1.0f / sum;
    const float* o = row.total.o + head * row.width;
    for (int32_t d = 0; d < queries.dim; ++d) out[head * queries.dim + d] = o[d] * scale;
  }
}

}  // namespace

int64_t bf16_row_workspace_size(const Queries& queries) {
  Row row;
  return lay_out(queries, nullptr, row);
}

void attend_bf16_row(const Queries& queries, const CachedRows& cache, const KeyList& list,
                     float* out, float* workspace) {
  Row row;
  lay_out(queries, workspace, row);
  load_row_queries(queries, row.width, row.q);
  clear(row.total, queries.heads, row.width);
  for (int32_t begin = 0; begin < count(list); begin += kKeySplit) {
    attend_split(row, queries, cache, list, begin);
    add(row.part, queries.heads, row.width, row.total);
  }
  write_output(row, queries, out);
}

int64_t bf16_partial_size(const Queries& queries) {
  WorkspaceLayout layout(nullptr);
  Sums sums;
  lay_out_sums(queries, layout, sums);
  return layout.used();
}

void attend_bf16_part(const Queries& queries, const CachedRows& cache, const KeyList& list,
                      int32_t begin, float* workspace, float* partial) {
  Row row;
  lay_out(queries, workspace, row);
  WorkspaceLayout layout(partial);
  lay_out_sums(queries, layout, row.part);
  load_row_queries(queries, row.width, row.q);
  attend_split(row, queries, cache, list, begin);
}

void merge_bf16_parts(const Queries& queries, const float* partials, int32_t parts,
                      float* workspace, float* out) {
  Row row;
  lay_out(queries, workspace, row);
  clear(row.total, queries.heads, row.width);
  for (int32_t part = 0; part < parts; ++part) {
    WorkspaceLayout layout(const_cast<float*>(partials) + part * bf16_partial_size(queries));
    lay_out_sums(queries, layout, row.part);
    add(row.part, queries.heads, row.width, row.total);
  }
  write_output(row, queries, out);
}

}  // namespace kascade::cpu::KASCADE_ISA
