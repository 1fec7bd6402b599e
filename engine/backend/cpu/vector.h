// Vectors of f32 as wide as the instruction set of the translation unit allows, written with GCC's
// vector extensions. Included only by files that are compiled once per instruction set; KASCADE_ISA
// is the namespace that keeps their code apart.
#ifndef KASCADE_ENGINE_BACKEND_CPU_VECTOR_H_
#define KASCADE_ENGINE_BACKEND_CPU_VECTOR_H_

#include <cstdint>
#ifdef __AVX512DQ__
#include <immintrin.h>
#endif

#define KASCADE_INLINE inline __attribute__((always_inline))

namespace kascade::cpu::KASCADE_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));
typedef uint32_t BitVec __attribute__((vector_size(kLanes * 4)));
typedef uint16_t HalfVec __attribute__((vector_size(kLanes * 2)));
// The same types for memory without alignment.
typedef float MemVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t MemIntVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef uint16_t MemHalfVec __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

typedef int8_t MemByteVec __attribute__((vector_size(kLanes), aligned(1), may_alias));

constexpr float kInfinity = __builtin_inff();

constexpr int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }
constexpr int64_t padded(int64_t size) { return round_up(size, kLanes); }

KASCADE_INLINE Vec load(const float* from) { return *reinterpret_cast<const MemVec*>(from); }
KASCADE_INLINE void store(float* to, Vec value) { *reinterpret_cast<MemVec*>(to) = value; }
KASCADE_INLINE Vec broadcast(float value) { return value - Vec{}; }
KASCADE_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }

// Lane i takes lane from[i] of a, or from kLanes on of b. Clang has no built-in function with
// variable lanes.
KASCADE_INLINE Vec permuted(Vec a, Vec b, IntVec from) {
#ifdef __clang__
  Vec result{};
  for (int lane = 0; lane < kLanes; ++lane) {
    const int source = from[lane];
    result[lane] = source < kLanes ? a[source] : b[source - kLanes];
  }
  return result;
#else
  return __builtin_shuffle(a, b, from);
#endif
}

// Each lane receives the lane whose index differs in the bit kDistance (a power of two): halves,
// quarters and so on change places.
template <int kDistance>
KASCADE_INLINE Vec swapped(Vec value) {
  IntVec from{};
  for (int lane = 0; lane < kLanes; ++lane) from[lane] = lane ^ kDistance;
  return permuted(value, value, from);
}
KASCADE_INLINE float sum_of(Vec value) {
  if constexpr (kLanes > 8) value += swapped<8>(value);
  if constexpr (kLanes > 4) value += swapped<4>(value);
  value += swapped<2>(value);
  value += swapped<1>(value);
  return value[0];
}
KASCADE_INLINE float max_of(Vec value) {
  if constexpr (kLanes > 8) value = max(value, swapped<8>(value));
  if constexpr (kLanes > 4) value = max(value, swapped<4>(value));
  value = max(value, swapped<2>(value));
  value = max(value, swapped<1>(value));
  return value[0];
}

KASCADE_INLINE Vec from_bf16(const uint16_t* from) {
  const HalfVec halves = *reinterpret_cast<const MemHalfVec*>(from);
  return reinterpret_cast<Vec>(__builtin_convertvector(halves, BitVec) << 16);
}
KASCADE_INLINE Vec from_int8(const int8_t* from) {
  return __builtin_convertvector(*reinterpret_cast<const MemByteVec*>(from), Vec);
}
// Rounds to bf16, to nearest with ties to even; a NaN stays a NaN.
KASCADE_INLINE void store_bf16(uint16_t* to, Vec value) {
  const BitVec bits = reinterpret_cast<BitVec>(value);
  const BitVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const BitVec nan = (bits >> 16) | 0x40u;
  const BitVec kept = (bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded;
  *reinterpret_cast<MemHalfVec*>(to) = __builtin_convertvector(kept, HalfVec);
}

// eˣ within 2 ulp on [-87, 88]; exactly 0 below, e⁸⁸ above, NaN for NaN. Uses Cephes' polynomial
// after the reduction x = n · ln 2 + r.
KASCADE_INLINE Vec exp(Vec x) {
  const Vec highest = broadcast(88.0f);
  const Vec clamped = x > highest ? highest : x;
  const float rounder = 12582912.0f;  // 1.5 · 2²³: adding it leaves the integer in the low bits
  const Vec shifted = clamped * 1.44269504f + rounder;
  const Vec n = shifted - rounder;
  const Vec r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  const BitVec power = (reinterpret_cast<BitVec>(shifted) << 23) + (127u << 23);
  const Vec value = p * reinterpret_cast<Vec>(power);
  return x < broadcast(-87.0f) ? Vec{} : value;
}

constexpr float kLowest = -3.0e38f;  // finite, so that kLowest − kLowest is 0 and not NaN

// ⌈x⌉, exact; −∞ stays −∞ and NaN stays NaN.
KASCADE_INLINE Vec ceiling(Vec x) {
#ifdef __AVX512DQ__
  return _mm512_roundscale_ps(x, 0x0a);
#else
  const float rounder = 12582912.0f;
  const Vec nearest = (x + rounder) - rounder;
  const Vec up = nearest < x ? nearest + 1.0f : nearest;
  const Vec fractions_end = broadcast(4194304.0f);  // 2²²
  return x < fractions_end && x > -fractions_end ? up : x;
#endif
}

// 2ˣ with a relative error below 1.1e-4, a twentieth of what rounding the result to bf16 may
// change. It is exact for integers that give a normal number, 0 for −∞ and NaN for NaN. x ≤ 127.
#ifdef __AVX512DQ__
KASCADE_INLINE Vec rough_exp2(Vec x) {
  constexpr int kFraction = 0x09;  // x − ⌊x⌋, no exceptions
  const Vec r = _mm512_reduce_ps(x, kFraction);
  Vec p = _mm512_fmadd_ps(broadcast(0.0782679702f), r, broadcast(0.2263076823f));
  p = _mm512_fmadd_ps(p, r, broadcast(0.6954243475f));
  p = _mm512_fmadd_ps(p, r, broadcast(1.0f));
  return _mm512_scalef_ps(p, x);  // takes ⌊x⌋ itself
}
#else
KASCADE_INLINE Vec rough_exp2(Vec x) {
  const Vec lowest = broadcast(-126.0f);
  const Vec clamped = x < lowest ? lowest : x;
  const float rounder = 12582912.0f;  // as in exp()
  const Vec nearest = (clamped + rounder) - rounder;
  const Vec below = nearest > clamped ? nearest - 1.0f : nearest;
  const Vec r = clamped - below;
  Vec p = r * 0.0782679702f + 0.2263076823f;
  p = p * r + 0.6954243475f;
  p = p * r + 1.0f;
  const BitVec power = (reinterpret_cast<BitVec>(below + rounder) << 23) + (127u << 23);
  return x < lowest ? Vec{} : p * reinterpret_cast<Vec>(power);
}
#endif

// One step of reduce(). a and b each hold partial sums of `kResults` results in turn (lane i
// belongs to result i % kResults). The return value holds the results of a, then those of b, with
// half as many partial sums each.
template <int kResults>
KASCADE_INLINE Vec combine(Vec a, Vec b) {
  IntVec low{};
  for (int lane = 0; lane < kLanes; ++lane) {
    const int result = lane % (2 * kResults);
    const int partial = lane / (2 * kResults) * (2 * kResults);
    low[lane] = result < kResults ? partial + result : kLanes + partial + result - kResults;
  }
  return permuted(a, b, low) + permuted(a, b, low + kResults);
}

// Lane i of the result is the sum over the lanes of parts[i]; destroys parts[0 … kLanes).
KASCADE_INLINE Vec reduce(Vec* parts) {
#define KASCADE_REDUCE_STEP(results)                                 \
  if constexpr (kLanes > (results)) {                                \
    for (int i = 0; i < kLanes / (2 * (results)); ++i) {             \
      parts[i] = combine<(results)>(parts[2 * i], parts[2 * i + 1]); \
    }                                                                \
  }
  KASCADE_REDUCE_STEP(1)
  KASCADE_REDUCE_STEP(2)
  KASCADE_REDUCE_STEP(4)
  KASCADE_REDUCE_STEP(8)
#undef KASCADE_REDUCE_STEP
  return parts[0];
}

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_VECTOR_H_
