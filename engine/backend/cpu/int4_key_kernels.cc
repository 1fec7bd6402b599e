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

constexpr int kMostQueries = 4;  // queries that are multiplied by a panel at a time
constexpr int kPanelVecs = kInt4KeyPanel / kLanes;

struct Room {
  int64_t words;    // words of 4 levels of a query
  int64_t stride;   // keys, rounded up to whole panels
  int32_t* levels;  // [kMostQueries][words]
  float* rotated;   // [components of a head]
  float* logits;    // [kMostQueries][stride]
};

int64_t lay_out(const Queries& in, int32_t keys, float* memory, Room& room) {
  WorkspaceLayout layout(memory);
  room.words = int4_key_level_words(in.dim) / kInt4KeyPanel * 2;
  // A panel of which only some slots hold keys is computed as a whole.
  room.stride = round_up(keys, kInt4KeyPanel) + kInt4KeyPanel;
  layout.take(room.levels, kMostQueries * room.words);
  layout.take(room.rotated, in.dim);
  layout.take(room.logits, kMostQueries * room.stride);
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
  float factor;   // by which sums become logits, but for the scale of the key
  int32_t start;  // minus the offset of the keys' levels times the sum of the query's levels
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
  return {scale / __builtin_sqrtf(static_cast<float>(dim)), -kInt4KeyOffset * sum};
}

// sums[q] += products of the 8 components in the words of one vector of keys with those of query q.
template <int kQueries>
KASCADE_INLINE void add_products(const int32_t* words, const int32_t* levels, int64_t stride,
                                 IntVec* sums) {
#ifdef __AVX512VNNI__
  const __m512i both = _mm512_loadu_si512(words);
  const __m512i half = _mm512_set1_epi8(15);
  const __m512i low = _mm512_and_si512(both, half);
  const __m512i high = _mm512_and_si512(_mm512_srli_epi32(both, 4), half);
#pragma GCC unroll 4
  for (int q = 0; q < kQueries; ++q) {
    auto sum = reinterpret_cast<__m512i>(sums[q]);
    sum = _mm512_dpbusd_epi32(sum, low, _mm512_set1_epi32(levels[q * stride]));
    sum = _mm512_dpbusd_epi32(sum, high, _mm512_set1_epi32(levels[q * stride + 1]));
    sums[q] = reinterpret_cast<IntVec>(sum);
  }
#else
  const IntVec both = *reinterpret_cast<const MemIntVec*>(words);
#pragma GCC unroll 8
  for (int i = 0; i < kInt4KeyComponents; ++i) {
    const IntVec level = (both >> (i < 4 ? 8 * i : 8 * (i - 4) + 4)) & 15;
#pragma GCC unroll 4
    for (int q = 0; q < kQueries; ++q) {
      sums[q] += level * reinterpret_cast<const int8_t*>(levels + q * stride)[i];
    }
  }
#endif
}

// Writes the logits of a panel's keys for kQueries queries, in rows that are room.stride apart.
template <int kQueries>
void panel_logits(const int32_t* panel, const Room& room, const QuantizedQuery* queries,
                  float* logits) {
  const int64_t groups = room.words / 2;
  const auto* scales = reinterpret_cast<const uint16_t*>(panel + groups * kInt4KeyPanel);
#pragma GCC unroll 4
  for (int v = 0; v < kPanelVecs; ++v) {
    IntVec sums[kQueries];
#pragma GCC unroll 4
    for (int q = 0; q < kQueries; ++q) sums[q] = IntVec{} + queries[q].start;
    for (int64_t group = 0; group < groups; ++group) {
      add_products<kQueries>(panel + group * kInt4KeyPanel + v * kLanes, room.levels + 2 * group,
                             room.words, sums);
    }
    const Vec scale = from_bf16(scales + v * kLanes);
#pragma GCC unroll 4
    for (int q = 0; q < kQueries; ++q) {
      store(logits + q * room.stride + v * kLanes,
            __builtin_convertvector(sums[q], Vec) * scale * queries[q].factor);
    }
  }
}

KASCADE_INLINE void prefetch_panel(const int32_t* panel, int64_t words) {
  for (int64_t at = 0; at < words; at += 16) __builtin_prefetch(panel + at);
}

// Calls visit(panel, its first position) for the panels with the first `count` keys.
template <typename Visit>
KASCADE_INLINE void for_each_panel(const Int4KeyRows& keys, int32_t count, const Visit& visit) {
  const int32_t panels = (keys.block_size + kInt4KeyPanel - 1) / kInt4KeyPanel;
  const int32_t blocks = (count + keys.block_size - 1) / keys.block_size;
  const auto panel_of = [&](int32_t block) {
    const int64_t head = static_cast<int64_t>(keys.blocks[block]) * keys.kv_heads + keys.kv_head;
    return keys.panels + head * panels * keys.panel_words;
  };
  for (int32_t block = 0; block < blocks; ++block) {
    const int32_t* panel = panel_of(block);
    const int32_t* next = block + 1 < blocks ? panel_of(block + 1) : nullptr;
    const int32_t first = block * keys.block_size;
    for (int32_t i = 0; i < panels && first + i * kInt4KeyPanel < count; ++i) {
      const int64_t at = i * keys.panel_words;
      if (next != nullptr) prefetch_panel(next + at, keys.panel_words);
      visit(panel + at, first + i * kInt4KeyPanel);
    }
  }
}

KASCADE_INLINE Vec load_logits(const float* logits, int32_t left) {
  const Vec value = load(logits);
  if (left >= kLanes) return value;
  IntVec lane{};
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane < left ? value : broadcast(-kInfinity);
}

// Adds the probabilities of one query, the softmax of `count` logits, to the scores.
void pool_query(float* logits, int32_t count, Pool pooling, float* scores) {
  Vec largest = broadcast(-kInfinity);
  for (int32_t j = 0; j < count; j += kLanes) {
    largest = max(load_logits(logits + j, count - j), largest);
  }
  const Vec top = broadcast(max_of(largest));
  Vec sum{};
  for (int32_t j = 0; j < count; j += kLanes) {
    const Vec p = exp(load_logits(logits + j, count - j) - top);
    store(logits + j, p);
    sum += p;
  }
  const float scale = 1.0f / sum_of(sum);
  int32_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    const Vec p = load(logits + j) * scale, before = load(scores + j);
    store(scores + j, pooling == Pool::kSum ? before + p : max(p, before));
  }
  for (; j < count; ++j) {
    const float p = logits[j] * scale;
    scores[j] = pooling == Pool::kSum ? scores[j] + p : p > scores[j] ? p : scores[j];
  }
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
  for_each_panel(keys, causal(kQueries - 1), [&](const int32_t* panel, int32_t position) {
    panel_logits<kQueries>(panel, room, queries, room.logits + position);
  });
  for (int q = 0; q < kQueries; ++q) {
    pool_query(room.logits + q * room.stride, causal(q), pooling, scores);
  }
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
  const int64_t count = static_cast<int64_t>(queries.rows) * queries.heads;
  int64_t first = 0;
  for (; first + 4 <= count; first += 4) {
    pool_queries<4>(queries, keys, first, room, pooling, scores);
  }
  if (count - first == 3) return pool_queries<3>(queries, keys, first, room, pooling, scores);
  if (count - first == 2) return pool_queries<2>(queries, keys, first, room, pooling, scores);
  if (count - first == 1) return pool_queries<1>(queries, keys, first, room, pooling, scores);
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
