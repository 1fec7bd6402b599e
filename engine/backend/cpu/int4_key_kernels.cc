// Pooled probabilities by the 4-bit copy of the keys, and the writing of this copy
// (engine/backend/int4_keys.h). Each key has a vector lane. All integers are those of the
// definition, whatever the instruction set.
#include "engine/backend/cpu/isa.h"
#include "engine/backend/cpu/rotation.h"
#include "engine/backend/cpu/vector.h"
#include "engine/backend/cpu/workspace.h"
#include "engine/backend/int4_keys.h"
#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

namespace kascade::cpu::KASCADE_ISA {
namespace {

constexpr int kMostQueries = 8;  // queries that are multiplied by a panel at a time
constexpr int kPanelVecs = kInt4KeyPanel / kLanes;
constexpr int32_t kSpan = 256;  // keys of which the logits lie in the nearest cache until used

// The workspace of up to kMostQueries queries.
struct Room {
  int64_t words;    // words of 4 levels of a query
  int64_t stride;   // keys, rounded up to whole spans
  int32_t* levels;  // [kMostQueries][words]
  float* rotated;   // [components of a head]
  float* powers;    // [kMostQueries][stride] 2^(logit − top of the span), before that the logits
  float* tops;      // [spans][kMostQueries] ⌈largest logit up to the end of the span⌉
};

int64_t lay_out(const Queries& in, int32_t keys, float* memory, Room& room) {
  WorkspaceLayout layout(memory);
  room.words = int4_key_level_words(in.dim) / kInt4KeyPanel * 2;
  // A panel of which only some slots hold keys is computed as a whole.
  room.stride = round_up(keys + 2 * kInt4KeyPanel, kSpan);
  layout.take(room.levels, kMostQueries * room.words);
  layout.take(room.rotated, in.dim);
  layout.take(room.powers, kMostQueries * room.stride);
  layout.take(room.tops, room.stride / kSpan * kMostQueries);
  return layout.used();
}

// The largest magnitude, or NaN if a value is not finite.
float largest_of(const float* values, int64_t size) {
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
  float top;      // ⌈largest logit so far⌉
  float sum;      // of 2^(logit − top) so far
};

QuantizedQuery load_query(const float* query, int32_t dim, const Room& room, int32_t* words) {
  rotate(query, dim, room.rotated);
  const float largest = largest_of(room.rotated, dim);
  const bool usable = largest >= kNegligible;
  const float inverse = usable ? 127.0f / largest : 0;
  auto* levels = reinterpret_cast<int8_t*>(words);
  int32_t sum = 0;
  for (int32_t i = 0; i < dim; ++i) {
    const float value = usable ? room.rotated[i] : 0;
    const auto level = static_cast<int32_t>(__builtin_rintf(value * inverse));
    levels[i] = static_cast<int8_t>(level);
    sum += level;
  }
  for (int64_t i = dim; i < 4 * room.words; ++i) levels[i] = 0;
  const float scale = usable ? largest / 127.0f : largest < kNegligible ? 0 : largest;
  constexpr float kLog2E = 1.44269504f;
  return {.factor = scale * (kLog2E / __builtin_sqrtf(static_cast<float>(dim))),
          .start = -kInt4KeyOffset * sum,
          .top = kLowest,
          .sum = 0};
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
// in rows that are room.stride apart. The scales of a vector are behind its words.
template <int kQueries, int kVecs>
KASCADE_INLINE void logits_of(const int32_t* words, int64_t apart, const uint16_t* scales,
                              int64_t scales_apart, const Room& room, const QuantizedQuery* queries,
                              float* logits) {
  IntVec sums[kVecs][kQueries];
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) sums[v][q] = IntVec{} + queries[q].start;
  }
  for (int64_t group = 0; group < room.words / 2; ++group) {
    add_products<kQueries, kVecs>(words + group * kInt4KeyPanel, apart, room.levels + 2 * group,
                                  room.words, sums);
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    const Vec scale = from_bf16(scales + v * scales_apart);
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) {
      store(logits + q * room.stride + v * kLanes,
            __builtin_convertvector(sums[v][q], Vec) * scale);
    }
  }
}

// The logits of kPanels panels, one after the other in memory.
template <int kQueries, int kPanels>
KASCADE_INLINE void panel_logits(const int32_t* panel, int64_t panel_words, const Room& room,
                                 const QuantizedQuery* queries, float* logits) {
  const auto* scales = reinterpret_cast<const uint16_t*>(panel + room.words / 2 * kInt4KeyPanel);
  if constexpr (kPanelVecs == 1) {
    return logits_of<kQueries, kPanels>(panel, panel_words, scales, 2 * panel_words, room, queries,
                                        logits);
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int v = 0; v < kPanelVecs; ++v) {
      logits_of<kQueries, 1>(panel + p * panel_words + v * kLanes, 0,
                             scales + p * 2 * panel_words + v * kLanes, 0, room, queries,
                             logits + p * kInt4KeyPanel + v * kLanes);
    }
  }
}

KASCADE_INLINE void prefetch_panel(const int32_t* panel, int64_t words) {
  for (int64_t at = 0; at < words; at += 16) __builtin_prefetch(panel + at, 0, 2);
}

template <int kCount>
struct Panels {
  static constexpr int value = kCount;
};

// Calls visit(Panels<number of panels>, first panel, its first position) for the panels with the
// first `count` keys. With `asks`, prefetches the panels of the next block.
template <typename Visit>
KASCADE_INLINE void for_each_panel(const Int4KeyRows& keys, int32_t count, bool asks,
                                   const Visit& visit) {
  constexpr int32_t kAhead = 4;
  const int32_t panels = (keys.block_size + kInt4KeyPanel - 1) / kInt4KeyPanel;
  const int32_t blocks = (count + keys.block_size - 1) / keys.block_size;
  const auto panel_of = [&](int32_t block) {
    const int64_t head = static_cast<int64_t>(keys.blocks[block]) * keys.kv_heads + keys.kv_head;
    return keys.panels + head * panels * keys.panel_words;
  };
  for (int32_t block = 0; block < blocks; ++block) {
    const int32_t* panel = panel_of(block);
    const int32_t* next = asks && block + kAhead < blocks ? panel_of(block + kAhead) : nullptr;
    const int32_t first = block * keys.block_size;
    for (int32_t i = 0; i < panels && first + i * kInt4KeyPanel < count;) {
      const int64_t at = i * keys.panel_words;
      const bool pair = i + 1 < panels && first + (i + 1) * kInt4KeyPanel < count;
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

// Lanes from `left` on become −∞.
KASCADE_INLINE Vec keep_first(Vec value, int32_t left) {
  IntVec lane{};
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane < left ? value : broadcast(-kInfinity);
}

// Turns the logits of one query and span into powers and writes their top. Only the first `left`
// keys of the span count.
void exponentiate(float* powers, int32_t left, QuantizedQuery& query, float* top) {
  const int32_t whole = left < kSpan ? left / kLanes * kLanes : kSpan;
  const int32_t end = left < kSpan ? (left < 0 ? 0 : left) : kSpan;
  if (whole < end) store(powers + whole, keep_first(load(powers + whole), end - whole));
  const auto vecs_end = static_cast<int32_t>(padded(end));
  for (int32_t j = vecs_end; j < kSpan; j += kLanes) store(powers + j, Vec{});
  Vec largest = broadcast(kLowest);
  for (int32_t j = 0; j < vecs_end; j += kLanes) largest = max(load(powers + j), largest);
  const Vec before = broadcast(query.top), factor = broadcast(query.factor);
  const Vec after = max(ceiling(broadcast(max_of(largest)) * factor), before);
  Vec sum{};
  for (int32_t j = 0; j < vecs_end; j += kLanes) {
    const Vec p = rough_exp2(load(powers + j) * factor - after);
    store(powers + j, p);
    sum += p;
  }
  query.sum = query.sum * rough_exp2(before - after)[0] + sum_of(sum);
  *top = query.top = after[0];
}

// Adds the probabilities of the queries to the scores of `count` keys of a span; `weights` turn
// powers into probabilities.
template <int kQueries, Pool kPool>
void pool_span(const float* powers, int64_t stride, const float* weights, int32_t count,
               float* scores) {
  Vec weight[kQueries];
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) weight[q] = broadcast(weights[q]);
  const auto pooled = [&](int32_t j, Vec score) {
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) {
      const Vec p = load(powers + q * stride + j);
      score = kPool == Pool::kSum ? score + p * weight[q] : max(p * weight[q], score);
    }
    return score;
  };
  int32_t j = 0;
  for (; j + kLanes <= count; j += kLanes) store(scores + j, pooled(j, load(scores + j)));
  if (j == count) return;
  float last[kLanes] = {};
  for (int i = 0; i < count - j; ++i) last[i] = scores[j + i];
  store(last, pooled(j, load(last)));
  for (int i = 0; i < count - j; ++i) scores[j + i] = last[i];
}

// Pools the queries from `first` on.
template <int kQueries>
void pool_queries(const Queries& in, const Int4KeyRows& keys, int64_t first, const Room& room,
                  Pool pooling, float* scores) {
  QuantizedQuery queries[kQueries];
  for (int q = 0; q < kQueries; ++q) {
    const int64_t query = first + q;
    const float* from = in.q + query / in.heads * in.stride + query % in.heads * in.dim;
    queries[q] = load_query(from, in.dim, room, room.levels + q * room.words);
  }
  const auto causal = [&](int q) {
    return in.first_position + static_cast<int32_t>((first + q) / in.heads) + 1;
  };
  const int32_t count = causal(kQueries - 1);
  const auto finish_span = [&](int32_t begin) {
    for (int q = 0; q < kQueries; ++q) {
      exponentiate(room.powers + q * room.stride + begin, causal(q) - begin, queries[q],
                   room.tops + begin / kSpan * kMostQueries + q);
    }
  };
  int32_t span = 0;
  const bool asks = first == 0;  // later runs find the panels in a cache
  for_each_panel(keys, count, asks, [&](auto panels, const int32_t* panel, int32_t position) {
    while (position >= span + kSpan) {
      finish_span(span);
      span += kSpan;
    }
    panel_logits<kQueries, panels.value>(panel, keys.panel_words, room, queries,
                                         room.powers + position);
  });
  finish_span(span);
  for (int32_t begin = 0; begin < count; begin += kSpan) {
    float weights[kQueries];
    for (int q = 0; q < kQueries; ++q) {
      const float top = room.tops[begin / kSpan * kMostQueries + q];
      weights[q] = rough_exp2(broadcast(top - queries[q].top))[0] / queries[q].sum;
    }
    const int32_t here = count - begin < kSpan ? count - begin : kSpan;
    const float* powers = room.powers + begin;
    if (pooling == Pool::kSum) {
      pool_span<kQueries, Pool::kSum>(powers, room.stride, weights, here, scores + begin);
    } else {
      pool_span<kQueries, Pool::kMax>(powers, room.stride, weights, here, scores + begin);
    }
  }
}

// Pools queries from `first` on, in runs of kQueries while so many are left.
template <int kQueries>
void pool_runs(const Queries& in, const Int4KeyRows& keys, int64_t first, const Room& room,
               Pool pooling, float* scores) {
  const int64_t count = static_cast<int64_t>(in.rows) * in.heads;
  for (; first + kQueries <= count; first += kQueries) {
    pool_queries<kQueries>(in, keys, first, room, pooling, scores);
  }
  if constexpr (kQueries > 1) pool_runs<kQueries - 1>(in, keys, first, room, pooling, scores);
}

}  // namespace

int64_t int4_pool_workspace_size(const Queries& queries, int32_t keys) {
  Room room;
  return lay_out(queries, keys, nullptr, room);
}

void pool_int4_keys(const Queries& queries, const Int4KeyRows& keys, Pool pooling, float* scores,
                    float* workspace) {
  Room room;
  const int32_t causal = queries.first_position + queries.rows;
  lay_out(queries, causal, workspace, room);
  for (int32_t key = 0; key < causal; ++key) scores[key] = 0;
  pool_runs<kMostQueries>(queries, keys, 0, room, pooling, scores);
}

void write_int4_key_row(const float* key, int64_t head_dim, int32_t slot, int32_t* panel,
                        float* rotated) {
  rotate(key, head_dim, rotated);
  const float largest = largest_of(rotated, head_dim);
  const bool usable = largest >= kNegligible;
  uint16_t* scale = reinterpret_cast<uint16_t*>(panel + int4_key_level_words(head_dim)) + slot;
  Vec rounded = broadcast(largest < kNegligible ? 0 : largest / kInt4KeyLargestLevel);
  uint16_t halves[kLanes];
  store_bf16(halves, rounded);
  *scale = halves[0];
  const float inverse = usable ? 1.0f / from_bf16(halves)[0] : 0;
  for (int64_t d = 0; d < head_dim; ++d) {
    rotated[d] = usable ? __builtin_rintf(rotated[d] * inverse) : 0;
  }
  const auto level_of = [&](int64_t d) {
    return static_cast<uint32_t>(d < head_dim ? static_cast<int32_t>(rotated[d]) + kInt4KeyOffset
                                              : kInt4KeyOffset);
  };
  for (int64_t d = 0; d < head_dim; d += kInt4KeyComponents) {
    uint32_t word = 0;
    for (int i = 0; i < 4; ++i) {
      word |= (level_of(d + i) | level_of(d + i + 4) << 4) << (8 * i);
    }
    panel[d / kInt4KeyComponents * kInt4KeyPanel + slot] = static_cast<int32_t>(word);
  }
}

}  // namespace kascade::cpu::KASCADE_ISA
