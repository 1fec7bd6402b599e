// Functions shared by the files that are compiled once per instruction set.
#ifndef KASCADE_ENGINE_BACKEND_CPU_ISA_H_
#define KASCADE_ENGINE_BACKEND_CPU_ISA_H_

#include "engine/backend/cpu/kernels.h"

namespace kascade::cpu::KASCADE_ISA {

// Attention of a tile with one vector lane per query (tile_kernels.cc), which pays off from one
// full vector of queries on. *_workspace_size() returns f32 elements, see Kernels.
int64_t tile_workspace_size(const Queries& queries);
void attend_tile(const Queries& queries, const CachedRows& cache, const KeyList& keys, float* out,
                 int64_t out_stride, float* workspace);
void pool_tile(const Queries& queries, const CachedRows& cache, Pool pooling, float* scores,
               float* workspace);

// Attention of a single row (queries.rows == 1) with one vector lane per component of a head
// (single_row_kernels.cc). pool_row() adds to the values in `scores`.
int64_t row_workspace_size(const Queries& queries, int32_t keys);
void attend_row(const Queries& queries, const CachedRows& cache, const KeyList& keys, float* out,
                float* workspace);
void pool_row(const Queries& queries, const CachedRows& cache, Pool pooling, float* scores,
              float* workspace);

// Kernels for the 4-bit copy of the keys (int4_key_kernels.cc).
int64_t int4_pool_workspace_size(const Queries& queries, int32_t keys);
void pool_int4_keys(const Queries& queries, const Int4KeyRows& keys, Pool pooling, float* scores,
                    float* workspace);
int64_t int4_powers_size(const Queries& queries, int32_t keys);
void int4_powers(const Queries& queries, const Int4KeyRows& keys, int32_t begin, float* workspace,
                 float* powers);
void pool_int4_powers(const Queries& queries, Pool pooling, float* powers, float* scores);
void write_int4_key_row(const float* key, int64_t head_dim, int32_t slot, int32_t* panel,
                        float* rotated);

#ifdef __AVX512BF16__
// Attention with the bf16 dot product instruction, for a cache in bf16 or in int8; int8 keys and
// values are converted to bf16. A row gives the same bits alone and in a tile. The workspace of
// pooling grows with the number of keys, not with the number of rows.
int64_t bf16_tile_workspace_size(const Queries& queries);
void attend_bf16_tile(const Queries& queries, const CachedRows& cache, const KeyList& keys,
                      float* out, int64_t out_stride, float* workspace);
int64_t bf16_row_workspace_size(const Queries& queries);
void attend_bf16_row(const Queries& queries, const CachedRows& cache, const KeyList& keys,
                     float* out, float* workspace);
int64_t bf16_partial_size(const Queries& queries);
void attend_bf16_part(const Queries& queries, const CachedRows& cache, const KeyList& keys,
                      int32_t begin, float* workspace, float* partial);
void merge_bf16_parts(const Queries& queries, const float* partials, int32_t parts,
                      float* workspace, float* out);
int64_t bf16_pool_tile_workspace_size(const Queries& queries, int32_t keys);
void pool_bf16_tile(const Queries& queries, const CachedRows& cache, Pool pooling, float* scores,
                    float* workspace);
int64_t bf16_pool_row_workspace_size(const Queries& queries, int32_t keys);
void pool_bf16_row(const Queries& queries, const CachedRows& cache, Pool pooling, float* scores,
                   float* workspace);
#endif

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_ISA_H_
