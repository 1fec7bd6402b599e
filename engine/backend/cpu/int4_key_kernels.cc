// Pooled probabilities by the 4-bit copy of the keys, and the writing of this copy
// (engine/backend/int4_keys.h). The maximum and the sum that a probability is relative to are known
// only after the last key, so the powers are kept in the workspace, of a few queries at a time.
#include "engine/backend/cpu/int4_key_logits.h"
#include "engine/backend/cpu/isa.h"
#include "engine/backend/cpu/workspace.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

constexpr int32_t kMostQueries = kMostInt4Queries;
constexpr int32_t kSpan = 256;  // keys of which the logits lie in the nearest cache until used
static_assert(kInt4KeySplit % kSpan == 0);

// What a softmax is relative to.
struct Softmax {
  float top = kLowest;  // ⌈largest logit⌉
  float sum = 0;        // of 2^(logit − top)
};

// Powers of up to kMostQueries queries.
struct Powers {
  int64_t stride;   // keys, rounded up to whole spans
  float* powers;    // [kMostQueries][stride] 2^(logit − top of the span), before that the logits
  float* tops;      // [spans][kMostQueries] ⌈largest logit of the split up to the end of the span⌉
  Softmax* splits;  // [splits][kMostQueries]

  float* top(int32_t position) const { return tops + position / kSpan * kMostQueries; }
  Softmax* split(int32_t position) const {
    return splits + position / kInt4KeySplit * kMostQueries;
  }
};

int64_t lay_out(int32_t queries, int32_t keys, float* memory, Powers& powers) {
  static_assert(sizeof(Softmax) == 2 * sizeof(float));
  WorkspaceLayout layout(memory);
  // A panel of which only some slots hold keys is computed as a whole.
  powers.stride = round_up(keys + 2 * kInt4KeyPanel, kSpan);
  layout.take(powers.powers, queries * powers.stride);
  layout.take(powers.tops, powers.stride / kSpan * kMostQueries);
  float* splits;
  layout.take(splits, (powers.stride / kInt4KeySplit + 1) * kMostQueries * 2);
  powers.splits = reinterpret_cast<Softmax*>(splits);
  return layout.used();
}

int64_t lay_out(const Queries& in, float* memory, QueryLevels& room) {
  WorkspaceLayout layout(memory);
  room.words = int4_key_level_words(in.dim) / kInt4KeyPanel * 2;
  layout.take(room.levels, kMostQueries * room.words);
  layout.take(room.rotated, in.dim);
  return layout.used();
}

// Lanes from `left` on become −∞.
KASCADE_INLINE Vec keep_first(Vec value, int32_t left) {
  IntVec lane{};
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane < left ? value : broadcast(-kInfinity);
}

// Turns the logits of one query and span, which lack the factor of the query, into powers, adds
// them to the state and writes their top. Only the first `left` keys of the span count.
void exponentiate(float* powers, int32_t left, float query_factor, Softmax& state, float* top) {
  const int32_t whole = left < kSpan ? left / kLanes * kLanes : kSpan;
  const int32_t end = left < kSpan ? (left < 0 ? 0 : left) : kSpan;
  if (whole < end) store(powers + whole, keep_first(load(powers + whole), end - whole));
  const auto vecs_end = static_cast<int32_t>(padded(end));
  for (int32_t j = vecs_end; j < kSpan; j += kLanes) store(powers + j, Vec{});
  Vec largest = broadcast(kLowest);
  for (int32_t j = 0; j < vecs_end; j += kLanes) largest = max(load(powers + j), largest);
  const Vec before = broadcast(state.top), factor = broadcast(query_factor);
  const Vec after = max(ceiling(broadcast(max_of(largest)) * factor), before);
  Vec sum{};
  for (int32_t j = 0; j < vecs_end; j += kLanes) {
    const Vec p = rough_exp2(load(powers + j) * factor - after);
    store(powers + j, p);
    sum += p;
  }
  state.sum = state.sum * rough_exp2(before - after)[0] + sum_of(sum);
  *top = state.top = after[0];
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

// Runs of queries: query i of the run is head (first + i) % heads of row (first + i) / heads.
template <int kQueries>
struct Run {
  const Queries& in;
  int64_t first;

  const float* query(int i) const {
    return in.q + (first + i) / in.heads * in.stride + (first + i) % in.heads * in.dim;
  }
  int32_t causal(int i) const {
    return in.first_position + static_cast<int32_t>((first + i) / in.heads) + 1;
  }
  int32_t keys() const { return causal(kQueries - 1); }
};

// Computes the powers over the keys from `begin`, where a split and a block begin, to `end`, where
// a split or the run's keys end.
template <int kQueries>
void collect_powers(const Run<kQueries>& run, const Int4KeyRows& keys, int32_t begin, int32_t end,
                    const QueryLevels& room, const Powers& out) {
  QuantizedQuery queries[kQueries];
  Softmax states[kQueries];
  for (int q = 0; q < kQueries; ++q) {
    queries[q] = load_query(run.query(q), run.in.dim, room, room.levels + q * room.words);
  }
  int32_t span = begin;
  const auto finish_span = [&] {
    for (int q = 0; q < kQueries; ++q) {
      exponentiate(out.powers + q * out.stride + span, run.causal(q) - span, queries[q].factor,
                   states[q], out.top(span) + q);
      out.split(span)[q] = states[q];
      if ((span + kSpan) % kInt4KeySplit == 0) states[q] = {};
    }
    span += kSpan;
  };
  const bool asks = run.first == 0;  // later runs find the panels in a cache
  for_each_panel(keys, begin, end, asks, [&](auto panels, const int32_t* panel, int32_t position) {
    while (position >= span + kSpan) finish_span();
    panel_logits<kQueries, panels.value>(panel, keys.panel_words, room, queries, out.stride,
                                         out.powers + position);
  });
  while (span < end) finish_span();
}

// Adds the probabilities to the scores, or takes the larger ones.
template <int kQueries>
void pool_powers(const Powers& in, int32_t keys, Pool pooling, float* scores) {
  Softmax all[kQueries];
  for (int32_t begin = 0; begin < keys; begin += kInt4KeySplit) {
    for (int q = 0; q < kQueries; ++q) {
      const Softmax part = in.split(begin)[q];
      const float top = part.top > all[q].top ? part.top : all[q].top;
      const Vec scales = rough_exp2(broadcast(part.top - top)),
                others = rough_exp2(broadcast(all[q].top - top));
      all[q] = {top, all[q].sum * others[0] + part.sum * scales[0]};
    }
  }
  for (int32_t begin = 0; begin < keys; begin += kSpan) {
    float weights[kQueries];
    for (int q = 0; q < kQueries; ++q) {
      weights[q] = rough_exp2(broadcast(in.top(begin)[q] - all[q].top))[0] / all[q].sum;
    }
    const int32_t here = keys - begin < kSpan ? keys - begin : kSpan;
    const float* powers = in.powers + begin;
    if (pooling == Pool::kSum) {
      pool_span<kQueries, Pool::kSum>(powers, in.stride, weights, here, scores + begin);
    } else {
      pool_span<kQueries, Pool::kMax>(powers, in.stride, weights, here, scores + begin);
    }
  }
}

// Calls visit(Run) for runs of queries, of kQueries each while so many are left.
template <int kQueries, typename Visit>
void for_each_run(const Queries& in, int64_t first, const Visit& visit) {
  const int64_t count = static_cast<int64_t>(in.rows) * in.heads;
  for (; first + kQueries <= count; first += kQueries) visit(Run<kQueries>{in, first});
  if constexpr (kQueries > 1) for_each_run<kQueries - 1>(in, first, visit);
}

void clear(float* scores, int32_t keys) {
  for (int32_t key = 0; key < keys; ++key) scores[key] = 0;
}

int32_t keys_of(const Queries& in) { return in.first_position + in.rows; }

}  // namespace

int64_t int4_pool_workspace_size(const Queries& queries, int32_t keys) {
  QueryLevels room;
  Powers powers;
  return lay_out(queries, nullptr, room) + lay_out(kMostQueries, keys, nullptr, powers);
}

void pool_int4_keys(const Queries& queries, const Int4KeyRows& keys, Pool pooling, float* scores,
                    float* workspace) {
  QueryLevels room;
  Powers powers;
  const int64_t used = lay_out(queries, workspace, room);
  lay_out(kMostQueries, keys_of(queries), workspace + used, powers);
  clear(scores, keys_of(queries));
  for_each_run<kMostQueries>(queries, 0, [&]<int kQueries>(const Run<kQueries>& run) {
    collect_powers(run, keys, 0, run.keys(), room, powers);
    pool_powers<kQueries>(powers, run.keys(), pooling, scores);
  });
}

int64_t int4_powers_size(const Queries& queries, int32_t keys) {
  Powers powers;
  return lay_out(queries.heads, keys, nullptr, powers);
}

void int4_powers(const Queries& queries, const Int4KeyRows& keys, int32_t begin, float* workspace,
                 float* memory) {
  QueryLevels room;
  Powers powers;
  lay_out(queries, workspace, room);
  lay_out(queries.heads, keys_of(queries), memory, powers);
  for_each_run<kMostQueries>(queries, 0, [&]<int kQueries>(const Run<kQueries>& run) {
    const int32_t end = begin + kInt4KeySplit < run.keys() ? begin + kInt4KeySplit : run.keys();
    collect_powers(run, keys, begin, end, room, powers);
  });
}

void pool_int4_powers(const Queries& queries, Pool pooling, float* memory, float* scores) {
  Powers powers;
  lay_out(queries.heads, keys_of(queries), memory, powers);
  clear(scores, keys_of(queries));
  for_each_run<kMostQueries>(queries, 0, [&]<int kQueries>(const Run<kQueries>& run) {
    pool_powers<kQueries>(powers, run.keys(), pooling, scores);
  });
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
