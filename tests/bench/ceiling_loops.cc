#include "tests/bench/ceiling_loops.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kascade::bench {

#if defined(__x86_64__)
namespace {

// Enough independent sums to hide the latency of any of these instructions, and few enough to stay
// in registers with the operands: more, and spills would be measured.
constexpr int kSums = 12;

#define KASCADE_TARGET(isa) __attribute__((target(isa), noinline))

KASCADE_TARGET("avx2,fma") void f32_avx2(int64_t iterations) {
  __m256 sums[kSums];
  for (auto& sum : sums) sum = _mm256_set1_ps(1);
  const __m256 a = _mm256_set1_ps(0.5F), b = _mm256_set1_ps(1.5F);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm256_fmadd_ps(sum, a, b);
  }
  // The compiler must believe that the sums are wanted.
  for (auto& sum : sums) asm volatile("" : : "x"(sum));
}

KASCADE_TARGET("avx512f") void f32_avx512(int64_t iterations) {
  __m512 sums[kSums];
  for (auto& sum : sums) sum = _mm512_set1_ps(1);
  const __m512 a = _mm512_set1_ps(0.5F), b = _mm512_set1_ps(1.5F);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm512_fmadd_ps(sum, a, b);
  }
  for (auto& sum : sums) asm volatile("" : : "v"(sum));
}

KASCADE_TARGET("avx512f,avx512bf16") void bf16_avx512(int64_t iterations) {
  __m512 sums[kSums];
  for (auto& sum : sums) sum = _mm512_set1_ps(1);
  const __m512 one = _mm512_set1_ps(1);
  const __m512bh a = _mm512_cvtne2ps_pbh(one, one);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm512_dpbf16_ps(sum, a, a);
  }
  for (auto& sum : sums) asm volatile("" : : "v"(sum));
}

KASCADE_TARGET("avx512f,avx512vnni") void int8_avx512(int64_t iterations) {
  __m512i sums[kSums];
  for (auto& sum : sums) sum = _mm512_set1_epi32(1);
  const __m512i a = _mm512_set1_epi8(3);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm512_dpbusd_epi32(sum, a, a);
  }
  for (auto& sum : sums) asm volatile("" : : "v"(sum));
}

}  // namespace

CeilingLoop f32_loop() {
  if (__builtin_cpu_supports("avx512f")) return {"vfmadd zmm", kSums * 16 * 2, f32_avx512};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {"vfmadd ymm", kSums * 8 * 2, f32_avx2};
  }
  return {};
}

CeilingLoop bf16_loop() {
  if (!__builtin_cpu_supports("avx512bf16")) return {};
  return {"vdpbf16ps zmm", kSums * 32 * 2, bf16_avx512};
}

CeilingLoop int8_loop() {
  if (!__builtin_cpu_supports("avx512vnni")) return {};
  return {"vpdpbusd zmm", kSums * 64 * 2, int8_avx512};
}

#else

CeilingLoop f32_loop() { return {}; }
CeilingLoop bf16_loop() { return {}; }
CeilingLoop int8_loop() { return {}; }

#endif

}  // namespace kascade::bench
