// The logits of queries over the 4-bit copy of the keys (engine/backend/int4_keys.h). Each key has
// a vector lane. All integers are those of the definition, whatever the instruction set. Like
// vector.h, only for files that are compiled once per instruction set.
#ifndef KASCADE_ENGINE_BACKEND_CPU_INT4_KEY_LOGITS_H_
#define KASCADE_ENGINE_BACKEND_CPU_INT4_KEY_LOGITS_H_

#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/rotation.h"
#include "engine/backend/cpu/vector.h"
#include "engine/backend/int4_keys.h"
#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

namespace kascade::cpu::KASCADE_ISA {

constexpr int kPanelVecs = kInt4KeyPanel / kLanes;

// Levels of quantised queries.
struct QueryLevels {
  int64_t words;    // words of 4 levels of a query
  int32_t* levels;  // [queries][words]
  float* rotated;   // [components of a head]
};

// The largest magnitude, or NaN if a value is not finite.
inline float largest_of(const float* values, int64_t size) {
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < size; ++i) {
    const float magnitude = __builtin_fabsf(values[i]);
    finite = finite && magnitude <= __FLT_MAX__;
    largest = magnitude > largest ? magnitude : largest;
  }
  return finite ? largest : __builtin_nanf("");
}

struct QuantizedQuery {
  float factor;   // by which sums become logits to base 2, but for the scale of the key
  int32_t start;  // minus the offset of the keys' levels times the sum of the query's levels
};

inline QuantizedQuery load_query(const float* query, int32_t dim, const QueryLevels& query_levels,
                                 int32_t* words) {
  rotate(query, dim, query_levels.rotated);
  const float largest = largest_of(query_levels.rotated, dim);
  const bool usable = largest >= kNegligible;
  const float inverse = usable ? 127.0f / largest : 0;
  auto* levels = reinterpret_cast<int8_t*>(words);
  int32_t sum = 0;
  for (int32_t i = 0; i < dim; ++i) {
    const float value = usable ? query_levels.rotated[i] : 0;
    const auto level = static_cast<int32_t>(__builtin_rintf(value * inverse));
    levels[i] = static_cast<int8_t>(level);
    sum += level;
  }
  for (int64_t i = dim; i < 4 * query_levels.words; ++i) levels[i] = 0;
  const float scale = usable ? largest / 127.0f : largest < kNegligible ? 0 : largest;
  constexpr float kLog2E = 1.44269504f;
  return {scale * (kLog2E / __builtin_sqrtf(static_cast<float>(dim))), -kInt4KeyOffset * sum};
}

// sums[v][q] += products of the 8 components in the words of kVecs vectors of keys, which are
// `apart` words apart, with those of query q.
template <int kQueries, int kVecs>
KASCADE_INLINE void add_products(const int32_t* words, int64_t apart, const int32_t* levels,
                                 int64_t stride, IntVec (*sums)[kQueries]) {
#ifdef __AVX512VNNI__
  __m512i low[kVecs], high[kVecs];
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    const __m512i both = _mm512_loadu_si512(words + v * apart), half = _mm512_set1_epi8(15);
    low[v] = _mm512_and_si512(both, half);
    high[v] = _mm512_and_si512(_mm512_srli_epi32(both, 4), half);
  }
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
    const __m512i first = _mm512_set1_epi32(levels[q * stride]);
    const __m512i second = _mm512_set1_epi32(levels[q * stride + 1]);
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      auto sum = reinterpret_cast<__m512i>(sums[v][q]);
      sum = _mm512_dpbusd_epi32(sum, low[v], first);
      sums[v][q] = reinterpret_cast<IntVec>(_mm512_dpbusd_epi32(sum, high[v], second));
    }
  }
#else
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    const IntVec both = *reinterpret_cast<const MemIntVec*>(words + v * apart);
#pragma GCC unroll 8
    for (int i = 0; i < kInt4KeyComponents; ++i) {
      const IntVec level = (both >> (i < 4 ? 8 * i : 8 * (i - 4) + 4)) & 15;
#pragma GCC unroll 8
      for (int q = 0; q < kQueries; ++q) {
        sums[v][q] += level * reinterpret_cast<const int8_t*>(levels + q * stride)[i];
      }
    }
  }
#endif
}

// Writes the logits of kVecs vectors of keys for kQueries queries, divided by the factor of each,
// in rows that are `stride` apart. The scales of the vectors are `scales_apart` bf16 values
// apart.
template <int kQueries, int kVecs>
KASCADE_INLINE void logits_of(const int32_t* words, int64_t apart, const uint16_t* scales,
                              int64_t scales_apart, const QueryLevels& query_levels,
                              const QuantizedQuery* queries, int64_t stride, float* logits) {
  IntVec sums[kVecs][kQueries];
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) sums[v][q] = IntVec{} + queries[q].start;
  }
  for (int64_t group = 0; group < query_levels.words / 2; ++group) {
    add_products<kQueries, kVecs>(words + group * kInt4KeyPanel, apart,
                                  query_levels.levels + 2 * group, query_levels.words, sums);
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    const Vec scale = from_bf16(scales + v * scales_apart);
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) {
      store(logits + q * stride + v * kLanes, __builtin_convertvector(sums[v][q], Vec) * scale);
    }
  }
}

// The logits of kPanels panels, one after the other in memory.
template <int kQueries, int kPanels>
KASCADE_INLINE void panel_logits(const int32_t* panel, int64_t panel_words,
                                 const QueryLevels& query_levels, const QuantizedQuery* queries,
                                 int64_t stride, float* logits) {
  const auto* scales =
      reinterpret_cast<const uint16_t*>(panel + query_levels.words / 2 * kInt4KeyPanel);
  if constexpr (kPanelVecs == 1) {
    return logits_of<kQueries, kPanels>(panel, panel_words, scales, 2 * panel_words, query_levels,
                                        queries, stride, logits);
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int v = 0; v < kPanelVecs; ++v) {
      logits_of<kQueries, 1>(panel + p * panel_words + v * kLanes, 0,
                             scales + p * 2 * panel_words + v * kLanes, 0, query_levels, queries,
                             stride, logits + p * kInt4KeyPanel + v * kLanes);
    }
  }
}

// To the second-level cache: the first has too few buffers for lines in flight.
KASCADE_INLINE void prefetch_panel(const int32_t* panel, int64_t words) {
  for (int64_t at = 0; at < words; at += 16) __builtin_prefetch(panel + at, 0, 2);
}

template <int kCount>
struct Panels {
  static constexpr int value = kCount;
};

// Calls visit(Panels<number of panels>, first panel, its first position) for the panels with the
// keys from `begin`, where a block begins, to `end`. With `asks`, prefetches panels that lie ahead.
template <typename Visit>
KASCADE_INLINE void for_each_panel(const Int4KeyRows& keys, int32_t begin, int32_t end, bool asks,
                                   const Visit& visit) {
  // Blocks lie far apart, so the hardware does not prefetch them. With one block ahead, cores
  // wait for memory in decoding.
  constexpr int32_t kAhead = 4;
  const int32_t panels = (keys.block_size + kInt4KeyPanel - 1) / kInt4KeyPanel;
  const int32_t blocks = (end + keys.block_size - 1) / keys.block_size;
  const auto panel_of = [&](int32_t block) {
    const int64_t head = static_cast<int64_t>(keys.blocks[block]) * keys.kv_heads + keys.kv_head;
    return keys.panels + head * panels * keys.panel_words;
  };
  for (int32_t block = begin / keys.block_size; block < blocks; ++block) {
    const int32_t* panel = panel_of(block);
    const int32_t* next = asks && block + kAhead < blocks ? panel_of(block + kAhead) : nullptr;
    const int32_t first = block * keys.block_size;
    for (int32_t i = 0; i < panels && first + i * kInt4KeyPanel < end;) {
      const int64_t at = i * keys.panel_words;
      const bool pair = i + 1 < panels && first + (i + 1) * kInt4KeyPanel < end;
      if (next != nullptr) prefetch_panel(next + at, keys.panel_words * (pair ? 2 : 1));
      if (pair) {
        visit(Panels<2>{}, panel + at, first + i * kInt4KeyPanel);
      } else {
        visit(Panels<1>{}, panel + at, first + i * kInt4KeyPanel);
      }
      i += pair ? 2 : 1;
    }
  }
}

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_INT4_KEY_LOGITS_H_
