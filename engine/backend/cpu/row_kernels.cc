// Operations on one row, and the table of all kernels of this instruction set.
#include "engine/backend/cpu/isa.h"
#include "engine/backend/cpu/vector.h"

#define KASCADE_TEXT_OF(name) #name
#define KASCADE_TEXT(name) KASCADE_TEXT_OF(name)

namespace kascade::cpu::KASCADE_ISA {
namespace {

// Loads the last, partial vector of a row of `size` elements, from element `at` on; the rest of it
// is 0.
Vec load_tail(const float* from, int64_t at, int64_t size) {
  Vec tail{};
  for (int64_t i = at; i < size; ++i) tail[i - at] = from[i];
  return tail;
}
void store_tail(float* to, int64_t at, int64_t size, Vec value) {
  for (int64_t i = at; i < size; ++i) to[i] = value[i - at];
}

void rms_norm(const float* x, const float* weight, float eps, int64_t size, float* out) {
  Vec squares{};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) squares += load(x + i) * load(x + i);
  const Vec tail = load_tail(x, i, size);
  const float mean = sum_of(squares + tail * tail) / static_cast<float>(size);
  const float scale = 1.0f / __builtin_sqrtf(mean + eps);
  for (i = 0; i + kLanes <= size; i += kLanes) {
    store(out + i, load(x + i) * scale * load(weight + i));
  }
  store_tail(out, i, size, tail * scale * load_tail(weight, i, size));
}

void add(float* x, const float* added, int64_t size) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store(x + i, load(x + i) + load(added + i));
  for (; i < size; ++i) x[i] += added[i];
}

void scale(float* x, float factor, int64_t size) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store(x + i, load(x + i) * factor);
  for (; i < size; ++i) x[i] *= factor;
}

void rope(float* x, int32_t heads, int32_t dim, const float* rotation) {
  const int32_t half = dim / 2;
  for (int32_t head = 0; head < heads; ++head) {
    float* low = x + head * dim;
    float* high = low + half;
    int32_t p = 0;
    for (; p + kLanes <= half; p += kLanes) {
      const Vec cosine = load(rotation + p), sine = load(rotation + half + p);
      const Vec a = load(low + p), b = load(high + p);
      store(low + p, a * cosine - b * sine);
      store(high + p, b * cosine + a * sine);
    }
    for (; p < half; ++p) {
      const float cosine = rotation[p], sine = rotation[half + p];
      const float a = low[p], b = high[p];
      low[p] = a * cosine - b * sine;
      high[p] = b * cosine + a * sine;
    }
  }
}

KASCADE_INLINE Vec silu_mul(Vec gate, Vec up) { return gate / (exp(-gate) + 1.0f) * up; }

void silu_mul_row(const float* gate, const float* up, int64_t size, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store(out + i, silu_mul(load(gate + i), load(up + i)));
  store_tail(out, i, size, silu_mul(load_tail(gate, i, size), load_tail(up, i, size)));
}

void to_bf16_row(const float* from, int64_t size, uint16_t* to) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store_bf16(to + i, load(from + i));
  uint16_t tail[kLanes];
  store_bf16(tail, load_tail(from, i, size));
  for (int64_t j = i; j < size; ++j) to[j] = tail[j - i];
}

void from_bf16_row(const uint16_t* from, int64_t size, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store(to + i, from_bf16(from + i));
  uint16_t tail[kLanes] = {};
  for (int64_t j = i; j < size; ++j) tail[j - i] = from[j];
  store_tail(to, i, size, from_bf16(tail));
}

// Whether the queries fill a vector, so that tile_kernels.cc is the faster way; fewer queries are
// faster row by row.
bool fills_a_vector(const Queries& queries) {
  return queries.rows > 1 && static_cast<int64_t>(queries.rows) * queries.heads >= kLanes;
}

Queries row_of(const Queries& queries, int32_t row) {
  return {queries.q + row * queries.stride, queries.stride, 1, queries.heads, queries.dim,
          queries.first_position + row};
}

// The functions below choose between the kernels for an f32 cache and those for a bf16 or int8
// cache.
[[maybe_unused]] int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t tile_workspace_of(const Queries& queries, [[maybe_unused]] CacheFormat format,
                          [[maybe_unused]] int32_t keys) {
#ifdef __AVX512BF16__
  if (format != CacheFormat::kF32) {
    const int64_t pooling = keys > 0 ? bf16_pool_tile_workspace_size(queries, keys) : 0;
    return larger(bf16_tile_workspace_size(queries), pooling);
  }
#endif
  return tile_workspace_size(queries);
}
int64_t row_workspace_of(const Queries& queries, [[maybe_unused]] CacheFormat format,
                         int32_t keys) {
#ifdef __AVX512BF16__
  if (format != CacheFormat::kF32) {
    const int64_t pooling = keys > 0 ? bf16_pool_row_workspace_size(queries, keys) : 0;
    return larger(bf16_row_workspace_size(queries), pooling);
  }
#endif
  return row_workspace_size(queries, keys);
}
void attend_tile_of(const Queries& queries, const CachedRows& cache, const KeyList& keys,
                    float* out, int64_t out_stride, float* workspace) {
#ifdef __AVX512BF16__
  if (cache.format != CacheFormat::kF32)
    return attend_bf16_tile(queries, cache, keys, out, out_stride, workspace);
#endif
  attend_tile(queries, cache, keys, out, out_stride, workspace);
}
void attend_row_of(const Queries& queries, const CachedRows& cache, const KeyList& keys, float* out,
                   float* workspace) {
#ifdef __AVX512BF16__
  if (cache.format != CacheFormat::kF32)
    return attend_bf16_row(queries, cache, keys, out, workspace);
#endif
  attend_row(queries, cache, keys, out, workspace);
}
void pool_tile_of(const Queries& queries, const CachedRows& cache, Pool pooling, float* scores,
                  float* workspace) {
#ifdef __AVX512BF16__
  if (cache.format != CacheFormat::kF32)
    return pool_bf16_tile(queries, cache, pooling, scores, workspace);
#endif
  pool_tile(queries, cache, pooling, scores, workspace);
}
void pool_row_of(const Queries& queries, const CachedRows& cache, Pool pooling, float* scores,
                 float* workspace) {
#ifdef __AVX512BF16__
  if (cache.format != CacheFormat::kF32)
    return pool_bf16_row(queries, cache, pooling, scores, workspace);
#endif
  pool_row(queries, cache, pooling, scores, workspace);
}

int64_t workspace_size(const Queries& queries, CacheFormat format, int32_t keys) {
  return fills_a_vector(queries) ? tile_workspace_of(queries, format, keys)
                                 : row_workspace_of(queries, format, keys);
}

void attend(const Queries& queries, const CachedRows& cache, const KeyList& keys, float* out,
            int64_t out_stride, float* workspace) {
  if (fills_a_vector(queries)) {
    return attend_tile_of(queries, cache, keys, out, out_stride, workspace);
  }
  for (int32_t row = 0; row < queries.rows; ++row) {
    const Queries one = row_of(queries, row);
    KeyList causal = keys;
    if (causal.own_end > one.first_position + 1) causal.own_end = one.first_position + 1;
    attend_row_of(one, cache, causal, out + row * out_stride, workspace);
  }
}

void pool(const Queries& queries, const CachedRows& cache, Pool pooling, float* scores,
          float* workspace) {
  if (fills_a_vector(queries)) return pool_tile_of(queries, cache, pooling, scores, workspace);
  for (int32_t j = 0; j < queries.first_position + queries.rows; ++j) scores[j] = 0;
  for (int32_t row = 0; row < queries.rows; ++row) {
    pool_row_of(row_of(queries, row), cache, pooling, scores, workspace);
  }
}

}  // namespace

#ifdef __AVX512F__
extern const ChoiceKernels choice_kernels;  // choice_kernels.cc
#else
constexpr const ChoiceKernels& choice_kernels = kPlainChoice;
#endif

#ifdef __AVX512BF16__
constexpr auto partial_size = bf16_partial_size;
constexpr auto attend_part = attend_bf16_part;
constexpr auto merge_parts = merge_bf16_parts;
#else
constexpr auto partial_size = nullptr;
constexpr auto attend_part = nullptr;
constexpr auto merge_parts = nullptr;
#endif

extern const Kernels kernels;
const Kernels kernels = {KASCADE_TEXT(KASCADE_ISA),
                         workspace_size,
                         attend,
                         partial_size,
                         attend_part,
                         merge_parts,
                         pool,
                         int4_pool_workspace_size,
                         pool_int4_keys,
                         int4_powers_size,
                         int4_powers,
                         pool_int4_powers,
                         write_int4_key_row,
                         rms_norm,
                         add,
                         scale,
                         rope,
                         silu_mul_row,
                         to_bf16_row,
                         from_bf16_row,
                         &choice_kernels};

}  // namespace kascade::cpu::KASCADE_ISA
