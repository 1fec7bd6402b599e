// The arithmetic of the CPU backend on plain pointers: one (tile, KV head) or one row per call,
// without threads and without allocation. It is compiled once per instruction set, and
// pick_kernels() returns the best set for this machine. The files with the kernels share no inline
// function with the rest of the program, neither ours nor the standard library's: the linker keeps
// only one copy of an inline function, and that could be one with instructions that this machine
// lacks.
#ifndef KASCADE_ENGINE_BACKEND_CPU_KERNELS_H_
#define KASCADE_ENGINE_BACKEND_CPU_KERNELS_H_

#include <cstdint>

#include "engine/backend/host/choice_kernels.h"

namespace kascade::cpu {

// The query heads that share one KV head, for consecutive rows: head r of row i is at q + i ·
// stride + r · dim, and its position is first_position + i.
struct Queries {
  const float* q = nullptr;
  int64_t stride = 0;
  int32_t rows = 0;
  int32_t heads = 0;
  int32_t dim = 0;
  int32_t first_position = 0;
};

// A row of kInt8 is its levels, followed by the f32 scale by which they are multiplied; strides are
// then in bytes.
enum class CacheFormat { kF32, kBF16, kInt8 };

// The rows of one KV head in the paged cache. The row of position p is (block · kv_heads + kv_head)
// · block_size + p % block_size, where block = blocks[p / block_size].
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

// The 4-bit copy of the keys of one KV head (engine/backend/int4_keys.h). The panels of a block are
// those from (block · kv_heads + kv_head) · (panels of a block) on.
struct Int4KeyRows {
  const int32_t* panels = nullptr;
  int64_t panel_words = 0;
  const int32_t* blocks = nullptr;  // block ids in order of position
  int32_t block_size = 0;
  int32_t kv_heads = 0;
  int32_t kv_head = 0;
};

// The positions of the keys to attend to, ascending: the sinks [0, sinks), then chosen[0 …
// chosen_count), then [own_begin, own_end).
struct KeyList {
  int32_t sinks = 0;
  const int32_t* chosen = nullptr;
  int32_t chosen_count = 0;
  int32_t own_begin = 0;
  int32_t own_end = 0;
};

// How probabilities are pooled over rows and heads.
enum class Pool { kSum, kMax };

// Kernels that have attend_part() compute sums over a bf16 or int8 cache as sums over runs of this
// many keys of the list, so that threads can share a row without changing the result. It is a
// multiple of the kernels' blocks.
constexpr int32_t kKeySplit = 4096;

// pool_int4_keys() makes the sum of a softmax of sums over runs of this many keys, so that threads
// can share a row without changing the result.
constexpr int32_t kInt4KeySplit = 2048;
// The most queries (heads of rows) that the kernels multiply by each key that they load.
constexpr int32_t kMostInt4Queries = 8;

struct Kernels {
  const char* isa;

  // The workspace that attend() and pool() need, in f32 elements; it must be aligned to 64 bytes.
  // Only pool() depends on `keys`, the number of keys to pool over.
  int64_t (*workspace_size)(const Queries& queries, CacheFormat format, int32_t keys);

  // Row i attends to the keys of the list up to its own position. `out` is laid out like q.
  void (*attend)(const Queries& queries, const CachedRows& cache, const KeyList& keys, float* out,
                 int64_t out_stride, float* workspace);

  // These compute attend() of a single row in parts, with the same bits. attend_part() writes the
  // sums over the kKeySplit keys of the list from `begin` on, which take partial_size() f32
  // elements. merge_parts() combines the parts, given in order of `begin`. Null if the kernels
  // cannot share a row; only for a cache of bf16 or int8.
  int64_t (*partial_size)(const Queries& queries);
  void (*attend_part)(const Queries& queries, const CachedRows& cache, const KeyList& keys,
                      int32_t begin, float* workspace, float* partial);
  void (*merge_parts)(const Queries& queries, const float* partials, int32_t parts,
                      float* workspace, float* out);

  // scores[0 … last position] = sum or maximum of the probabilities over rows and query heads.
  void (*pool)(const Queries& queries, const CachedRows& cache, Pool pooling, float* scores,
               float* workspace);

  // pool() by the 4-bit copy of the keys.
  int64_t (*int4_pool_workspace_size)(const Queries& queries, int32_t keys);
  void (*pool_int4_keys)(const Queries& queries, const Int4KeyRows& keys, Pool pooling,
                         float* scores, float* workspace);
  // These compute pool_int4_keys() of a single row of at most kMostInt4Queries heads in parts, with
  // the same bits. int4_powers() computes the powers, 2^(logit − largest logit so far), over the
  // kInt4KeySplit keys from `begin` on; all parts share `powers`, which has int4_powers_size() f32
  // elements. pool_int4_powers() then makes scores of them. The block size must divide
  // kInt4KeySplit.
  int64_t (*int4_powers_size)(const Queries& queries, int32_t keys);
  void (*int4_powers)(const Queries& queries, const Int4KeyRows& keys, int32_t begin,
                      float* workspace, float* powers);
  void (*pool_int4_powers)(const Queries& queries, Pool pooling, float* powers, float* scores);
  // write_int4_key(); `rotated` has room for the key.
  void (*write_int4_key)(const float* key, int64_t head_dim, int32_t slot, int32_t* panel,
                         float* rotated);

  // `out` may be `x`.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t size, float* out);
  void (*add)(float* x, const float* added, int64_t size);
  void (*scale)(float* x, float factor, int64_t size);
  // `rotation` holds cosines in [0, dim/2) and sines in [dim/2, dim).
  void (*rope)(float* x, int32_t heads, int32_t dim, const float* rotation);
  void (*silu_mul)(const float* gate, const float* up, int64_t size, float* out);
  void (*to_bf16)(const float* from, int64_t size, uint16_t* to);
  void (*from_bf16)(const uint16_t* from, int64_t size, float* to);

  const ChoiceKernels* choice;
};

// Writes up to `room` sets of kernels that this machine can run, best first, and returns how many.
int32_t usable_kernels(const Kernels** out, int32_t room);
const Kernels& pick_kernels();

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_KERNELS_H_
