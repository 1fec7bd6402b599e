// Attention of one row, with one vector lane per component of a head. The query heads of the group
// share every key and value that is loaded, since decoding is bound by memory bandwidth.
#include "engine/backend/cpu/isa.h"
#include "engine/backend/cpu/key_block.h"
#include "engine/backend/cpu/vector.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

constexpr int kMostHeads = 4;                    // most heads at a time
constexpr int kMostVecs = kLanes == 16 ? 4 : 2;  // most vectors of a value at a time

struct Row {
  int64_t width;  // padded(dim)
  float* q;       // [heads][width], scaled by 1/√D, zero from dim on
  float* o;       // [heads][width] Σ p · v, not yet divided by Σ p
  float* keys;    // [kBlock][width]
  float* values;
  float* logits;  // [heads][round_up(keys, kBlock)]; attend_row() uses only one block
};

Row lay_out(const Queries& in, float* workspace) {
  Row row;
  row.width = padded(in.dim);
  const int64_t block = kBlock * row.width, heads = round_up(in.heads * row.width, 16);
  row.q = workspace;
  row.o = row.q + heads;
  row.keys = row.o + heads;
  row.values = row.keys + block;
  row.logits = row.values + block;
  return row;
}

void load_queries(const Queries& in, const Row& row) {
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(in.dim));
  for (int32_t head = 0; head < in.heads; ++head) {
    for (int64_t d = 0; d < row.width; ++d) {
      row.q[head * row.width + d] = d < in.dim ? in.q[head * in.dim + d] * scale : 0;
      row.o[head * row.width + d] = 0;
    }
  }
}

// Computes logits[h][j] = q[h] · k[j]. As many sums as a vector has lanes are computed together and
// then reduced across lanes together.
template <int kHeads>
void dot_keys(const float* q, int64_t width, const float* const* keys, int count,
              const Ahead& ahead, int64_t stride, float* logits) {
  constexpr int kKeys = kLanes / kHeads;
  for (int j = 0; j < count; j += kKeys) {
    for (int i = 0; i < kKeys; ++i) ahead.ask(j + i);
    Vec parts[kLanes] = {};
    for (int64_t d = 0; d < width; d += kLanes) {
      Vec query[kHeads];
#pragma GCC unroll 4
      for (int h = 0; h < kHeads; ++h) query[h] = load(q + h * width + d);
#pragma GCC unroll 16
      for (int i = 0; i < kKeys; ++i) {
        const Vec key = load(keys[j + i] + d);
#pragma GCC unroll 4
        for (int h = 0; h < kHeads; ++h) parts[h * kKeys + i] += query[h] * key;
      }
    }
    const Vec dots = reduce(parts);
    for (int h = 0; h < kHeads; ++h) {
      __builtin_memcpy(logits + h * stride + j, reinterpret_cast<const float*>(&dots) + h * kKeys,
                       kKeys * sizeof(float));
    }
  }
}

// Computes the logits of all heads; the call for the first heads also prefetches the next block.
void dot_all(const Row& row, int32_t heads, const float* const* keys, int count, const Ahead& ahead,
             int64_t stride, float* logits) {
  const Ahead nothing{};
  for (int32_t head = 0; head < heads;) {
    const float* q = row.q + head * row.width;
    const Ahead& asked = head == 0 ? ahead : nothing;
    float* to = logits + head * stride;
    if (heads - head >= kMostHeads) {
      dot_keys<kMostHeads>(q, row.width, keys, count, asked, stride, to);
      head += kMostHeads;
    } else if (heads - head >= 2) {
      dot_keys<2>(q, row.width, keys, count, asked, stride, to);
      head += 2;
    } else {
      dot_keys<1>(q, row.width, keys, count, asked, stride, to);
      head += 1;
    }
  }
}

// A running softmax: the largest logit and the sum of exp(logit − top) so far.
struct Softmax {
  float top = -3.4e38f;  // finite, so that top − top is 0 and not NaN
  float sum = 0;
};

// Turns logits into exp(logit − top) and writes up to the next whole vector. Returns the factor by
// which earlier sums must be multiplied.
float exponentiate(int64_t count, float* logits, Softmax& softmax) {
  const int64_t whole = padded(count);
  for (int64_t j = count; j < whole; ++j) logits[j] = -kInfinity;
  Vec largest = broadcast(softmax.top);
  for (int64_t j = 0; j < whole; j += kLanes) largest = max(load(logits + j), largest);
  const float before = softmax.top;
  softmax.top = max_of(largest);
  Vec total{};
  for (int64_t j = 0; j < whole; j += kLanes) {
    const Vec p = exp(load(logits + j) - softmax.top);
    store(logits + j, p);
    total += p;
  }
  const float rescale = exp(broadcast(before - softmax.top))[0];
  softmax.sum = softmax.sum * rescale + sum_of(total);
  return rescale;
}

// Computes o[h][d …] = o · rescale + Σ_j p[h][j] · v[j][d …] for kVecs vectors of components.
template <int kHeads, int kVecs>
KASCADE_INLINE void add_values(const float* p, const float* const* values, int count,
                               const Ahead& ahead, int64_t d, int64_t width, const float* rescale,
                               float* o) {
  Vec sum[kHeads][kVecs];
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVecs; ++v) {
      sum[h][v] = load(o + h * width + d + v * kLanes) * rescale[h];
    }
  }
  for (int j = 0; j < count; ++j) {
    ahead.ask(j);
    Vec value[kVecs];
    for (int v = 0; v < kVecs; ++v) value[v] = load(values[j] + d + v * kLanes);
#pragma GCC unroll 4
    for (int h = 0; h < kHeads; ++h) {
      const Vec weight = broadcast(p[h * kBlock + j]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[h][v] += weight * value[v];
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVecs; ++v) store(o + h * width + d + v * kLanes, sum[h][v]);
  }
}

template <int kHeads>
void add_values_of_heads(const float* p, const float* const* values, int count, const Ahead& ahead,
                         int64_t width, const float* rescale, float* o) {
  const Ahead nothing{};
  int64_t d = 0;
  for (; d + kMostVecs * kLanes <= width; d += kMostVecs * kLanes) {
    add_values<kHeads, kMostVecs>(p, values, count, d == 0 ? ahead : nothing, d, width, rescale, o);
  }
  for (; d < width; d += kLanes) {
    add_values<kHeads, 1>(p, values, count, d == 0 ? ahead : nothing, d, width, rescale, o);
  }
}

// Attends for up to kMostHeads heads from `head` on and returns how many these were.
int32_t attend_heads(const Row& row, int32_t head, int32_t heads, const float* const* values,
                     int count, const Ahead& ahead, Softmax* softmax) {
  const int32_t taken = heads - head >= kMostHeads ? kMostHeads : heads - head >= 2 ? 2 : 1;
  float* p = row.logits + head * kBlock;
  float* o = row.o + head * row.width;
  float rescale[kMostHeads];
  for (int32_t h = 0; h < taken; ++h) {
    rescale[h] = exponentiate(count, p + h * kBlock, softmax[head + h]);
  }
  if (taken == kMostHeads) {
    add_values_of_heads<kMostHeads>(p, values, count, ahead, row.width, rescale, o);
  } else if (taken == 2) {
    add_values_of_heads<2>(p, values, count, ahead, row.width, rescale, o);
  } else {
    add_values_of_heads<1>(p, values, count, ahead, row.width, rescale, o);
  }
  return taken;
}

// Finds the block of keys from `first` on and the rows to prefetch; does nothing past the end of
// the list.
void next_block(const CachedRows& cache, const KeyList& list, int32_t first, int32_t dim,
                KeyBlock& block, Ahead& keys) {
  keys.count = 0;
  if (first >= count(list)) return;
  find_keys(cache, list, first, block);
  look_ahead(block, cache.keys, cache.format, cache.key_stride, dim, keys);
}

}  // namespace

int64_t row_workspace_size(const Queries& queries, int32_t keys) {
  const int64_t width = padded(queries.dim);
  return 2 * round_up(queries.heads * width, 16) + 2 * kBlock * width +
         queries.heads * round_up(keys > 0 ? keys : 1, kBlock) + queries.heads * 2;
}

void attend_row(const Queries& queries, const CachedRows& cache, const KeyList& list, float* out,
                float* workspace) {
  const Row row = lay_out(queries, workspace);
  const int32_t dim = queries.dim, heads = queries.heads;
  load_queries(queries, row);
  auto* softmax = reinterpret_cast<Softmax*>(row.logits + heads * kBlock);
  for (int32_t head = 0; head < heads; ++head) softmax[head] = Softmax{};
  KeyBlock block;
  Ahead ahead;
  next_block(cache, list, 0, dim, block, ahead);
  for (int32_t first = 0; first < count(list); first += kBlock) {
    const int keys_here = block.count;
    const float* keys[kBlock];
    const float* values[kBlock];
    fetch_rows(block, cache.keys, cache.format, cache.key_stride, dim, true, row.keys, keys);
    look_ahead(block, cache.values, cache.format, cache.value_stride, dim, ahead);
    dot_all(row, heads, keys, keys_here, ahead, kBlock, row.logits);
    fetch_rows(block, cache.values, cache.format, cache.value_stride, dim, true, row.values,
               values);
    next_block(cache, list, first + kBlock, dim, block, ahead);
    for (int32_t head = 0; head < heads;) {
      head += attend_heads(row, head, heads, values, keys_here, ahead, softmax);
      ahead.count = 0;
    }
  }
  for (int32_t head = 0; head < heads; ++head) {
    const float scale = softmax[head].sum == 0 ? 0 : 1.0f / softmax[head].sum;
    for (int32_t d = 0; d < dim; ++d) out[head * dim + d] = row.o[head * row.width + d] * scale;
  }
}

void pool_row(const Queries& queries, const CachedRows& cache, Pool pooling, float* scores,
              float* workspace) {
  const Row row = lay_out(queries, workspace);
  load_queries(queries, row);
  const KeyList all{0, nullptr, 0, 0, queries.first_position + 1};
  const int32_t length = count(all);
  const int64_t stride = round_up(length, kBlock);
  KeyBlock block;
  Ahead ahead;
  next_block(cache, all, 0, queries.dim, block, ahead);
  for (int32_t first = 0; first < length; first += kBlock) {
    const int keys_here = block.count;
    const float* keys[kBlock];
    fetch_rows(block, cache.keys, cache.format, cache.key_stride, queries.dim, true, row.keys,
               keys);
    next_block(cache, all, first + kBlock, queries.dim, block, ahead);
    dot_all(row, queries.heads, keys, keys_here, ahead, stride, row.logits + first);
  }
  for (int32_t head = 0; head < queries.heads; ++head) {
    float* p = row.logits + head * stride;
    Softmax softmax;
    exponentiate(length, p, softmax);
    const float scale = 1.0f / softmax.sum;
    for (int32_t j = 0; j < length; ++j) {
      const float probability = p[j] * scale;
      const float largest = probability > scores[j] ? probability : scores[j];
      scores[j] = pooling == Pool::kSum ? scores[j] + probability : largest;
    }
  }
}

}  // namespace kascade::cpu::KASCADE_ISA
