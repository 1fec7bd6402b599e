// Vectors of bf16 pairs and the operations on them that the attention kernels need. Only for files
// that are compiled with AVX-512 and its bf16 dot product, once per instruction set like vector.h.
//
// A pair is two bf16 values in one 32-bit lane, the first in the low half. The dot product
// instruction adds the two products of each lane to an f32; it flushes denormal numbers to 0.
#ifndef KASCADE_ENGINE_BACKEND_CPU_BF16_VECTOR_H_
#define KASCADE_ENGINE_BACKEND_CPU_BF16_VECTOR_H_

#include <immintrin.h>

#include "engine/backend/cpu/vector.h"

namespace kascade::cpu::KASCADE_ISA {

typedef __m512i PairVec;

constexpr int kHalves = 2 * kLanes;  // bf16 values in a vector

KASCADE_INLINE PairVec load_pairs(const void* from) { return _mm512_loadu_si512(from); }
KASCADE_INLINE void store_pairs(void* to, PairVec pairs) { _mm512_storeu_si512(to, pairs); }
KASCADE_INLINE PairVec broadcast_pair(const void* from) {
  int32_t pair;
  __builtin_memcpy(&pair, from, sizeof(pair));
  return _mm512_set1_epi32(pair);
}
KASCADE_INLINE __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>(count >= kLanes ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
}
KASCADE_INLINE __mmask32 first_halves(int64_t count) {
  return static_cast<__mmask32>(count >= kHalves ? ~uint64_t{0}
                                                 : (uint64_t{1} << (count > 0 ? count : 0)) - 1);
}
// Reads only the bf16 values that the mask selects; the others are 0.
KASCADE_INLINE PairVec load_halves(const uint16_t* from, __mmask32 kept) {
  return _mm512_maskz_loadu_epi16(kept, from);
}

KASCADE_INLINE Vec add_products(Vec sum, PairVec a, PairVec b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
// Rounds to 32 bf16 values: those of `low`, then those of `high`.
KASCADE_INLINE PairVec narrow(Vec low, Vec high) {
  return reinterpret_cast<PairVec>(_mm512_cvtne2ps_pbh(high, low));
}
// Rounds to bf16 pairs: lane i holds element i of `first` and of `second`.
KASCADE_INLINE PairVec narrow_to_pairs(Vec first, Vec second) {
  const PairVec order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, narrow(first, second));
}
KASCADE_INLINE PairVec ones() { return _mm512_set1_epi32(0x3f803f80); }

// Loads up to 32 components of a query in bf16, scaled so that its products with keys are logits to
// base 2. Components from `left` on are 0.
KASCADE_INLINE PairVec scaled_query(const float* from, int64_t left, int32_t dim) {
  constexpr float kLog2E = 1.44269504f;
  const Vec scale = broadcast(kLog2E / __builtin_sqrtf(static_cast<float>(dim)));
  const Vec low = _mm512_maskz_loadu_ps(first_lanes(left), from);
  const Vec high = _mm512_maskz_loadu_ps(first_lanes(left - kLanes), from + kLanes);
  return narrow(low * scale, high * scale);
}

// Converts up to 32 levels of an int8 row to bf16, multiplied by their scale. Components from
// `left` on are 0.
KASCADE_INLINE PairVec widen_levels(const int8_t* levels, int64_t left, float scale) {
  const auto part = [&](int64_t at) {
    const __m128i bytes = _mm_maskz_loadu_epi8(first_lanes(left - at), levels + at);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)) * broadcast(scale);
  };
  return narrow(part(0), part(kLanes));
}
// Converts a whole int8 row to bf16; `to` has room for whole vectors.
KASCADE_INLINE void widen_row(const void* row, int32_t dim, uint16_t* to) {
  const auto* levels = static_cast<const int8_t*>(row);
  float scale;
  __builtin_memcpy(&scale, levels + dim, sizeof(scale));
  for (int64_t d = 0; d < dim; d += kHalves) {
    store_pairs(to + d, widen_levels(levels + d, dim - d, scale));
  }
}

// 2ⁿ of an integer n, exact; 0 for −∞.
KASCADE_INLINE Vec power_of_two(Vec n) { return _mm512_scalef_ps(broadcast(1.0f), n); }

// Adds two sums of products that are relative to different maxima, each multiplied by its scale to
// be relative to the larger maximum.
KASCADE_INLINE Vec add_sums(Vec a, Vec a_scale, Vec b, Vec b_scale) {
  return _mm512_fmadd_ps(a, a_scale, _mm512_mul_ps(b, b_scale));
}

// Transposes 16 vectors of 16 lanes: swaps lane j of rows[i] and lane i of rows[j].
KASCADE_INLINE void transpose(PairVec* rows) {
  PairVec half[kLanes];
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 4) {
    const PairVec a = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    const PairVec b = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    const PairVec c = _mm512_unpacklo_epi32(rows[i + 2], rows[i + 3]);
    const PairVec d = _mm512_unpackhi_epi32(rows[i + 2], rows[i + 3]);
    half[i] = _mm512_unpacklo_epi64(a, c);
    half[i + 1] = _mm512_unpackhi_epi64(a, c);
    half[i + 2] = _mm512_unpacklo_epi64(b, d);
    half[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  // Quarter l of half[4 · g + k] holds lane 4 · l + k of rows 4 · g … 4 · g + 3.
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const PairVec a = _mm512_shuffle_i32x4(half[k], half[4 + k], 0x88);
    const PairVec b = _mm512_shuffle_i32x4(half[k], half[4 + k], 0xdd);
    const PairVec c = _mm512_shuffle_i32x4(half[8 + k], half[12 + k], 0x88);
    const PairVec d = _mm512_shuffle_i32x4(half[8 + k], half[12 + k], 0xdd);
    rows[k] = _mm512_shuffle_i32x4(a, c, 0x88);
    rows[8 + k] = _mm512_shuffle_i32x4(a, c, 0xdd);
    rows[4 + k] = _mm512_shuffle_i32x4(b, d, 0x88);
    rows[12 + k] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// Components 0 … 31 of two rows, paired component by component.
struct Interleaved {
  PairVec low;   // components 0 … 15
  PairVec high;  // components 16 … 31
};
KASCADE_INLINE Interleaved interleave(PairVec first, PairVec second) {
  const PairVec lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  // permutex2var numbers the elements of its second operand from 32 on.
  const PairVec low =
      _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(32)), 16));
  const PairVec high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  return {_mm512_permutex2var_epi16(first, low, second),
          _mm512_permutex2var_epi16(first, high, second)};
}

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_BF16_VECTOR_H_
