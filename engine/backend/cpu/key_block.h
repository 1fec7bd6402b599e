// Reads cached rows in blocks of keys: finds their rows in the paged cache and provides pointers to
// them as f32. Like vector.h, only for files that are compiled once per instruction set.
#ifndef KASCADE_ENGINE_BACKEND_CPU_KEY_BLOCK_H_
#define KASCADE_ENGINE_BACKEND_CPU_KEY_BLOCK_H_

#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/vector.h"

namespace kascade::cpu::KASCADE_ISA {

constexpr int kBlock = 64;  // keys per block; keys and values of a block stay in L1/L2

KASCADE_INLINE int32_t count(const KeyList& keys) {
  return keys.sinks + keys.chosen_count + keys.own_end - keys.own_begin;
}
struct KeyBlock {
  int count;
  int32_t position[kBlock];
  int64_t row[kBlock];
};

// Writes the positions of keys [first, first + count) of the list, one of its three runs after the
// other.
KASCADE_INLINE void list_keys(const KeyList& keys, int32_t first, int count, int32_t* position) {
  const int32_t own = keys.sinks + keys.chosen_count;
  int j = 0;
  for (; j < count && first + j < keys.sinks; ++j) position[j] = first + j;
  for (; j < count && first + j < own; ++j) position[j] = keys.chosen[first + j - keys.sinks];
  for (; j < count; ++j) position[j] = keys.own_begin + first + j - own;
}

KASCADE_INLINE void find_keys(const CachedRows& cache, const KeyList& keys, int32_t first,
                              KeyBlock& block) {
  const int32_t left = count(keys) - first;
  const int32_t size = cache.block_size;
  // The block size is usually a power of two, which saves a division per key.
  const int shift = (size & (size - 1)) == 0 ? __builtin_ctz(static_cast<uint32_t>(size)) : -1;
  block.count = left < kBlock ? left : kBlock;
  list_keys(keys, first, block.count, block.position);
  for (int j = 0; j < block.count; ++j) {
    const int32_t position = block.position[j];
    const int32_t index = shift >= 0 ? position >> shift : position / size;
    const int64_t head = static_cast<int64_t>(cache.blocks[index]) * cache.kv_heads + cache.kv_head;
    block.row[j] = head * size + position - index * size;
  }
}

// Rows of the next block, to be prefetched. They are too scattered for the hardware prefetcher, and
// too many to prefetch at once: a kernel prefetches one with each key that it works on.
struct Ahead {
  int count = 0;
  int64_t bytes = 0;  // bytes of a row
  const char* row[kBlock];

  KASCADE_INLINE void ask(int j) const {
    constexpr int64_t kLine = 64;
    constexpr int kSecondLevel = 2;  // the first level has too few buffers for lines in flight
    if (j >= count) return;
    for (int64_t at = 0; at < bytes; at += kLine) {
      __builtin_prefetch(row[j] + at, 0, kSecondLevel);
    }
  }
};

KASCADE_INLINE int64_t element_size(CacheFormat format) {
  return format == CacheFormat::kF32 ? 4 : format == CacheFormat::kBF16 ? 2 : 1;
}

KASCADE_INLINE void look_ahead(const KeyBlock& block, const void* data, CacheFormat format,
                               int64_t stride, int32_t dim, Ahead& ahead) {
  const int64_t size = element_size(format);
  ahead.count = block.count;
  ahead.bytes = format == CacheFormat::kInt8 ? stride : dim * size;
  for (int j = 0; j < block.count; ++j) {
    ahead.row[j] = static_cast<const char*>(data) + block.row[j] * stride * size;
  }
}

// Loads kLanes components of a row from component d on. `scale` is the scale of an int8 row's
// levels.
KASCADE_INLINE Vec load_components(const void* row, CacheFormat format, float scale, int64_t d) {
  if (format == CacheFormat::kF32) return load(static_cast<const float*>(row) + d);
  if (format == CacheFormat::kBF16) return from_bf16(static_cast<const uint16_t*>(row) + d);
  return from_int8(static_cast<const int8_t*>(row) + d) * scale;
}
KASCADE_INLINE float load_component(const void* row, CacheFormat format, float scale, int64_t d) {
  if (format == CacheFormat::kF32) return static_cast<const float*>(row)[d];
  if (format == CacheFormat::kInt8) return static_cast<const int8_t*>(row)[d] * scale;
  const uint32_t bits = static_cast<const uint16_t*>(row)[d];
  return __builtin_bit_cast(float, bits << 16);
}
KASCADE_INLINE float scale_of(const void* row, CacheFormat format, int32_t dim) {
  float scale = 1;
  if (format == CacheFormat::kInt8) {
    __builtin_memcpy(&scale, static_cast<const int8_t*>(row) + dim, sizeof(scale));
  }
  return scale;
}

// Makes rows[j] point to the `dim` floats of each key of the block. Entries after the last key
// repeat it, so that kernels may run on to a multiple of their step. With whole_vectors,
// padded(dim) floats may be read, and those from dim on are 0. `copies` has room for kBlock ·
// padded(dim) floats; f32 rows that need no padding are used in place.
KASCADE_INLINE void fetch_rows(const KeyBlock& block, const void* data, CacheFormat format,
                               int64_t stride, int32_t dim, bool whole_vectors, float* copies,
                               const float** rows) {
  const bool in_place = format == CacheFormat::kF32 && (!whole_vectors || dim % kLanes == 0);
  const int64_t width = padded(dim);
  for (int j = 0; j < block.count; ++j) {
    const void* row = static_cast<const char*>(data) + block.row[j] * stride * element_size(format);
    if (in_place) {
      rows[j] = static_cast<const float*>(row);
      continue;
    }
    float* copy = copies + j * width;
    const float scale = scale_of(row, format, dim);
    int32_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) store(copy + d, load_components(row, format, scale, d));
    for (; d < dim; ++d) copy[d] = load_component(row, format, scale, d);
    for (; d < width; ++d) copy[d] = 0;
    rows[j] = copy;
  }
  for (int j = block.count; j < kBlock; ++j) rows[j] = rows[block.count - 1];
}

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_KEY_BLOCK_H_
