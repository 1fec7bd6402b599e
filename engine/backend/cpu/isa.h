// What the files that are compiled once per instruction set offer each other.
#ifndef KASCADE_ENGINE_BACKEND_CPU_ISA_H_
#define KASCADE_ENGINE_BACKEND_CPU_ISA_H_

#include "engine/backend/cpu/kernels.h"

namespace kascade::cpu::KASCADE_ISA {

// One vector lane per query (tile_kernels.cc): pays from a vector of queries on.
int64_t tile_scratch_size(const Queries& queries);
void attend_tile(const Queries& queries, const CachedRows& cache, const KeyList& keys, float* out,
                 int64_t out_stride, float* scratch);
void pool_tile(const Queries& queries, const CachedRows& cache, Pool how, float* scores,
               float* scratch);

// One vector lane per component of a head (single_row_kernels.cc); queries.rows == 1. pool_row()
// adds to what scores hold.
int64_t row_scratch_size(const Queries& queries, int32_t keys);
void attend_row(const Queries& queries, const CachedRows& cache, const KeyList& keys, float* out,
                float* scratch);
void pool_row(const Queries& queries, const CachedRows& cache, Pool how, float* scores,
              float* scratch);

#ifdef __AVX512BF16__
// The same by the bf16 dot product, over keys and values in bf16, or in int8, which are rounded to
// bf16. A row has the same bits alone and in a tile. Scratch of pooling grows with the keys, not
// with the rows.
int64_t bf16_tile_scratch_size(const Queries& queries);
void attend_bf16_tile(const Queries& queries, const CachedRows& cache, const KeyList& keys,
                      float* out, int64_t out_stride, float* scratch);
int64_t bf16_row_scratch_size(const Queries& queries);
void attend_bf16_row(const Queries& queries, const CachedRows& cache, const KeyList& keys,
                     float* out, float* scratch);
int64_t bf16_partial_size(const Queries& queries);
void attend_bf16_part(const Queries& queries, const CachedRows& cache, const KeyList& keys,
                      int32_t begin, float* scratch, float* partial);
void merge_bf16_parts(const Queries& queries, const float* partials, int32_t parts, float* scratch,
                      float* out);
int64_t bf16_pool_tile_scratch_size(const Queries& queries, int32_t keys);
void pool_bf16_tile(const Queries& queries, const CachedRows& cache, Pool how, float* scores,
                    float* scratch);
int64_t bf16_pool_row_scratch_size(const Queries& queries, int32_t keys);
void pool_bf16_row(const Queries& queries, const CachedRows& cache, Pool how, float* scores,
                   float* scratch);
#endif

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_ISA_H_
