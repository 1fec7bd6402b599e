// The kernels of choose_keys() with AVX-512: they work on sixteen scores at a time and compact the
// ones to keep with the compress instruction.
#include "engine/backend/host/choice_kernels.h"

#include <immintrin.h>

#include "engine/backend/cpu/vector.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

KASCADE_INLINE __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>(count >= kLanes ? 0xffff : (1 << count) - 1);
}
KASCADE_INLINE int count_of(__mmask16 lanes) { return __builtin_popcount(lanes); }

void rank(const float* scores, int64_t count, uint32_t* ranks) {
  const __m512 lowest = _mm512_set1_ps(-kInfinity), zero = _mm512_setzero_ps();
  const __m512i sign = _mm512_set1_epi32(INT32_MIN);
  for (int64_t i = 0; i < count; i += kLanes) {
    const __mmask16 here = first_lanes(count - i);
    const __m512 score = _mm512_maskz_loadu_ps(here, scores + i);
    const __mmask16 number = _mm512_cmp_ps_mask(score, score, _CMP_ORD_Q);
    const __m512i bits =
        _mm512_castps_si512(_mm512_mask_add_ps(lowest, number, score, zero));  // −0 + 0 = 0
    // All bits of a negative number are inverted, of other numbers only the sign.
    const __m512i turned = _mm512_or_si512(_mm512_srai_epi32(bits, 31), sign);
    _mm512_mask_storeu_epi32(ranks + i, here, _mm512_xor_si512(bits, turned));
  }
}

ChoiceKernels::Split split(const uint32_t* ranks, int64_t count, uint32_t low, uint32_t high,
                           uint32_t* inside) {
  const __m512i lowest = _mm512_set1_epi32(static_cast<int32_t>(low));
  const __m512i highest = _mm512_set1_epi32(static_cast<int32_t>(high));
  ChoiceKernels::Split split{};
  for (int64_t i = 0; i < count; i += kLanes) {
    const __mmask16 here = first_lanes(count - i);
    const __m512i some = _mm512_maskz_loadu_epi32(here, ranks + i);
    const __mmask16 above = _mm512_mask_cmpgt_epu32_mask(here, some, highest);
    const __mmask16 kept =
        _mm512_mask_cmpge_epu32_mask(static_cast<__mmask16>(here & ~above), some, lowest);
    // Compressing in a register and storing the whole vector is many times faster than compressing
    // to memory.
    _mm512_storeu_si512(inside + split.inside, _mm512_maskz_compress_epi32(kept, some));
    split.inside += count_of(kept);
    split.above += count_of(above);
  }
  return split;
}

// Ranks of positive scores are the bits of the score with the sign bit set; the others count
// nothing. A multiplication by a power of two is exact, and so is the sum of whole numbers.
uint64_t sum(const uint32_t* ranks, int64_t count) {
  const __m512i zero = _mm512_set1_epi32(INT32_MIN);
  const __m512 largest = _mm512_set1_ps(0x1p14f), steps = _mm512_set1_ps(0x1p40f);
  __m512i total = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; i += kLanes) {
    const __m512i some = _mm512_maskz_loadu_epi32(first_lanes(count - i), ranks + i);
    const __mmask16 positive = _mm512_cmpgt_epu32_mask(some, zero);
    const __m512 score = _mm512_castsi512_ps(_mm512_maskz_xor_epi32(positive, some, zero));
    const __m512 scaled = _mm512_mul_ps(_mm512_min_ps(score, largest), steps);
    const __m512i low = _mm512_cvttps_epu64(_mm512_castps512_ps256(scaled));
    const __m512i high = _mm512_cvttps_epu64(_mm512_extractf32x8_ps(scaled, 1));
    total = _mm512_add_epi64(total, _mm512_add_epi64(low, high));
  }
  uint64_t sums[8];
  _mm512_storeu_si512(sums, total);
  uint64_t all = 0;
  for (const uint64_t sum_of_lane : sums) all += sum_of_lane;
  return all;
}

void take(const uint32_t* ranks, int64_t count, uint32_t threshold, int64_t ties, int64_t wanted,
          int32_t* out) {
  const __m512i limit = _mm512_set1_epi32(static_cast<int32_t>(threshold));
  __m512i index = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (int64_t i = 0, written = 0; written < wanted; i += kLanes) {
    const __mmask16 here = first_lanes(count - i);
    const __m512i some = _mm512_maskz_loadu_epi32(here, ranks + i);
    const __mmask16 above = _mm512_mask_cmpgt_epu32_mask(here, some, limit);
    const __mmask16 equal = _mm512_mask_cmpeq_epi32_mask(here, some, limit);
    // If there are more ties than may still be taken, keep those in the lowest bits.
    const __mmask16 tied = count_of(equal) <= ties
                               ? equal
                               : static_cast<__mmask16>(_pdep_u32((1u << ties) - 1, equal));
    const auto taken = static_cast<__mmask16>(above | tied);
    _mm512_mask_storeu_epi32(out + written, first_lanes(count_of(taken)),
                             _mm512_maskz_compress_epi32(taken, index));
    ties -= count_of(tied);
    written += count_of(taken);
    index = _mm512_add_epi32(index, _mm512_set1_epi32(kLanes));
  }
}

}  // namespace

extern const ChoiceKernels choice_kernels;
const ChoiceKernels choice_kernels = {rank, split, sum, take};

}  // namespace kascade::cpu::KASCADE_ISA
