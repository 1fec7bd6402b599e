// The arithmetic of the CPU backend on plain pointers: one (tile, KV head) or one row per call, no
// threads, no allocation. Compiled once per instruction set; pick_kernels() takes the best that the
// machine has. Those files share no inline function with the rest of the program, ours or std's:
// the linker keeps one copy of it, and that could be the one for a machine that is not this one.
#ifndef KASCADE_ENGINE_BACKEND_CPU_KERNELS_H_
#define KASCADE_ENGINE_BACKEND_CPU_KERNELS_H_

#include <cstdint>

#include "engine/backend/host/choice_kernels.h"

namespace kascade::cpu {

// The heads that share one KV head, for consecutive rows: head r of row i is at
// q + i · stride + r · dim, at position first_position + i.
struct Queries {
  const float* q = nullptr;
  int64_t stride = 0;
  int32_t rows = 0;
  int32_t heads = 0;
  int32_t dim = 0;
  int32_t first_position = 0;
};

// kInt8: a row is its levels, then the f32 that they are multiples of; strides are in bytes.
enum class CacheFormat { kF32, kBF16, kInt8 };

// One KV head's rows in the paged cache: position p is row (block · kv_heads + kv_head) ·
// block_size + p % block_size of block blocks[p / block_size].
struct CachedRows {
  const void* keys = nullptr;
  const void* values = nullptr;
  CacheFormat format = CacheFormat::kF32;
  int64_t key_stride = 0;
  int64_t value_stride = 0;
  const int32_t* blocks = nullptr;  // block ids in order of position
  int32_t block_size = 0;
  int32_t kv_heads = 0;
  int32_t kv_head = 0;
};

// Ascending positions: the sinks [0, sinks), chosen[0 … chosen_count), [own_begin, own_end).
struct KeyList {
  int32_t sinks = 0;
  const int32_t* chosen = nullptr;
  int32_t chosen_count = 0;
  int32_t own_begin = 0;
  int32_t own_end = 0;
};

enum class Pool { kSum, kMax };

// Where the cache is bf16 or int8 and the kernels have attend_part(), sums over more keys of a list
// than this are made of sums over so many, so that threads can share a row. A multiple of the
// kernels' blocks.
constexpr int32_t kKeySplit = 4096;

struct Kernels {
  const char* isa;

  // f32 elements of scratch, 64-byte aligned, that attend() and pool() need; `keys` only matters to
  // pool().
  int64_t (*scratch_size)(const Queries& queries, CacheFormat format, int32_t keys);

  // Row i sees the keys of the list up to its own position. out is laid out like q.
  void (*attend)(const Queries& queries, const CachedRows& cache, const KeyList& keys, float* out,
                 int64_t out_stride, float* scratch);

  // attend() of one row in parts, to the bit: the sums over the kKeySplit keys of the list from
  // `begin` on, `partial_size` f32 of them; then the parts in order of `begin`, to `out`. Null
  // where rows cannot be shared; only for a cache of bf16 or int8.
  int64_t (*partial_size)(const Queries& queries);
  void (*attend_part)(const Queries& queries, const CachedRows& cache, const KeyList& keys,
                      int32_t begin, float* scratch, float* partial);
  void (*merge_parts)(const Queries& queries, const float* partials, int32_t parts, float* scratch,
                      float* out);

  // scores[0 … last position] = sum or maximum of the probabilities over rows and heads.
  void (*pool)(const Queries& queries, const CachedRows& cache, Pool how, float* scores,
               float* scratch);

  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t size, float* out);
  // rotation: cos [0, dim/2), sin [dim/2, dim)
  void (*rope)(float* x, int32_t heads, int32_t dim, const float* rotation);
  void (*silu_mul)(const float* gate, const float* up, int64_t size, float* out);
  void (*to_bf16)(const float* from, int64_t size, uint16_t* to);
  void (*from_bf16)(const uint16_t* from, int64_t size, float* to);

  const ChoiceKernels* choice;
};

// Best first: every set of kernels that this machine can run.
int32_t usable_kernels(const Kernels** out, int32_t room);
const Kernels& pick_kernels();

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_KERNELS_H_
