// What the files of kernels with AVX-512 VNNI share: products of bytes, and the quantisation of a
// row.
#ifndef KASCADE_ENGINE_BACKEND_CPU_VNNI_H_
#define KASCADE_ENGINE_BACKEND_CPU_VNNI_H_

#include <immintrin.h>

#include "engine/backend/cpu/block_kernels.h"
#include "engine/backend/cpu/panel_kernels.h"
#include "engine/backend/cpu/vector.h"

#define KASCADE_LAMBDA_INLINE __attribute__((always_inline))

namespace kascade::cpu::KASCADE_ISA {

constexpr int kSumLanes = 16;

// Weights of few bits are consumed faster than the hardware prefetcher fetches them, so that they
// are prefetched this many bytes ahead. Volatile, because otherwise GCC issues the prefetches of
// an unrolled loop all at once, which can be half as fast.
constexpr int kAhead = 2048;
KASCADE_INLINE void prefetch(const uint8_t* from) {
  asm volatile("prefetcht0 %0" : : "m"(from[kAhead]));
}

KASCADE_INLINE __m512i load_bytes(const uint8_t* from) { return _mm512_loadu_si512(from); }

// sum += products of the 4 unsigned bytes in each lane of `weights` and the 4 signed bytes at
// `levels`. This is inline assembly because with the intrinsic GCC 12 copies the sums, which then
// no longer fit the registers.
KASCADE_INLINE void add_products(__m512i& sum, __m512i weights, const int32_t& levels) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(levels));
}

template <int64_t kBytes>
KASCADE_INLINE void prefetch_group(const uint8_t* from) {
  for (int64_t at = 0; at < kBytes; at += 64) prefetch(from + at);
}

// The first `count` of 16 lanes.
KASCADE_INLINE __mmask16 first_lanes(int32_t count) {
  return static_cast<__mmask16>((1u << (count < 16 ? count : 16)) - 1);
}

KASCADE_INLINE __m512 load_some(const float* x, int64_t first, int64_t size) {
  if (first + kSumLanes <= size) return _mm512_loadu_ps(x + first);
  if (first >= size) return _mm512_setzero_ps();
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << (size - first)) - 1), x + first);
}

// The largest magnitude, or NaN if a value is not finite.
inline float largest_of(const float* x, int64_t size) {
  __m512 largest = _mm512_setzero_ps();
  __mmask16 endless = 0;
  const __m512 most = _mm512_set1_ps(__FLT_MAX__);
  for (int64_t i = 0; i < size; i += kSumLanes) {
    const __m512 magnitude = _mm512_abs_ps(load_some(x, i, size));
    endless |= _mm512_cmp_ps_mask(magnitude, most, _CMP_NLE_UQ);
    largest = _mm512_max_ps(largest, magnitude);
  }
  return endless != 0 ? __builtin_nanf("") : _mm512_reduce_max_ps(largest);
}

// The sums of the first and of the last 8 bytes.
struct Pair {
  int32_t first;
  int32_t second;
};
KASCADE_INLINE Pair sums_of_eight(__m128i bytes) {
  const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), bytes);
  const __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi16(1));
  const __m128i eights = _mm_add_epi32(fours, _mm_srli_epi64(fours, 32));
  return {_mm_cvtsi128_si32(eights), _mm_extract_epi32(eights, 2)};
}

// Quantises a row and adds up all its levels.
inline Quantized quantize_counting(const float* x, int64_t size, const IntegerRow& row) {
  const float largest = largest_of(x, size);
  const bool usable = largest >= 0x1p-100f;
  const __m512 inverse = _mm512_set1_ps(usable ? 127.0f / largest : 0.0f);
  const __mmask16 kept = usable ? 0xffff : 0;
  __m512i sum = _mm512_setzero_si512();
  int32_t total = 0;
  int32_t* start = row.starts;
  for (int64_t i = 0; i < row.padded; i += kSumLanes) {
    const __m512 scaled = _mm512_maskz_mul_ps(kept, load_some(x, i, size), inverse);
    const __m512i levels = _mm512_cvtps_epi32(scaled);
    const __m128i bytes = _mm512_cvtepi32_epi8(levels);
    int32_t* to = row.words + i / 4 * row.rows;
    to[0] = _mm_extract_epi32(bytes, 0);
    to[row.rows] = _mm_extract_epi32(bytes, 1);
    to[2 * row.rows] = _mm_extract_epi32(bytes, 2);
    to[3 * row.rows] = _mm_extract_epi32(bytes, 3);
    if (row.sum_length == 8) {
      const Pair halves = sums_of_eight(bytes);
      start[0] = -row.offset * halves.first;
      start[row.rows] = -row.offset * halves.second;
      start += 2 * row.rows;
      total += halves.first + halves.second;
      continue;
    }
    sum = _mm512_add_epi32(sum, levels);
    const int64_t end = i + kSumLanes;
    if (end % row.sum_length == 0 || end == row.padded) {
      const int32_t part = _mm512_reduce_add_epi32(sum);
      total += part;
      *start = -row.offset * part;
      start += row.rows;
      sum = _mm512_setzero_si512();
    }
  }
  if (usable) return {largest / 127.0f, total};
  return {largest < 0x1p-100f ? 0.0f : largest, total};
}

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_VNNI_H_
