// Pooled probabilities over bf16 keys with the bf16 dot product. Each key is multiplied only once.
// The maximum and the sum that a probability is relative to are known only after the last key, so
// the powers are kept in the workspace, one group of lanes (bf16_lanes.h) at a time.
#include "engine/backend/cpu/bf16_lanes.h"
#include "engine/backend/cpu/bf16_row.h"
#include "engine/backend/cpu/isa.h"
#include "engine/backend/cpu/workspace.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

constexpr int kMostWidth = kMostVecs * kLanes;

// The workspace of a tile. For n keys and w lanes of a group it takes 2 · n · w bytes, whatever the
// number of rows.
struct Tile {
  Lanes lanes;
  uint32_t* p;  // [keys / 2][lanes of one group] pairs of keys, relative to `tops`
  float* tops;  // [blocks][lanes of one group] ⌈largest logit up to that block⌉
};

int64_t lay_out(const Queries& in, int32_t keys, float* memory, Tile& tile) {
  WorkspaceLayout layout(memory);
  const int64_t blocks = (static_cast<int64_t>(keys) + kBlock - 1) / kBlock;
  lay_out_lanes(in, layout, tile.lanes);
  layout.take(tile.p, blocks * kBlock / 2 * kMostWidth);
  layout.take(tile.tops, blocks * kMostWidth);
  return layout.used();
}

KeyList all_keys(const Queries& in) { return {0, nullptr, 0, 0, in.first_position + in.rows}; }

// Computes the powers of one group over all keys, and the sums by which they must be divided.
template <int kVecs>
void collect_powers(const Queries& in, const CachedRows& cache, const Tile& tile, int64_t lane,
                    float* top, float* sum) {
  constexpr int64_t width = kVecs * kLanes;
  const KeyList all = all_keys(in);
  const AheadOfBlock nothing{};
  for (int v = 0; v < kVecs; ++v) {
    store(top + v * kLanes, broadcast(kLowest));
    store(sum + v * kLanes, Vec{});
  }
  for (int32_t first = 0; first < count(all); first += kBlock) {
    KeyBlock block;
    Keys keys;
    alignas(64) float largest[width];
    find_keys(cache, all, first, block);
    fetch_keys(block, cache, in.dim, tile.lanes, keys);
    logits_of_group<kVecs>(tile.lanes, lane, keys, nothing, largest);
    uint32_t* p = tile.p + first / 2 * width;
    float* tops = tile.tops + first / kBlock * width;
    for (int at = 0; at < width; at += kLanes) {
      const Vec before = load(top + at);
      const Vec after = _mm512_max_ps(ceiling(load(largest + at)), before);
      store(sum + at, load(sum + at) * power_of_two(before - after));
      store(top + at, after);
      store(tops + at, after);
      exponentiate(tile.lanes.logits + at, keys.count, width, after, p + at, sum + at);
    }
  }
}

// scores[j] (+)= Σ or maximum over the group's lanes of p[j] · weight for `count` ≤ kLanes keys.
template <int kVecs>
KASCADE_INLINE void pool_keys(const uint32_t* p, const Vec* weight, int count, Pool pooling,
                              float* scores) {
  constexpr int64_t width = kVecs * kLanes;
  Vec pooled[kLanes] = {};
#pragma GCC unroll 8
  for (int j = 0; j < kLanes; j += 2) {
    if (j >= count) break;
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      const PairVec pair = load_pairs(p + j / 2 * width + v * kLanes);
      const Vec first = reinterpret_cast<Vec>(_mm512_slli_epi32(pair, 16)) * weight[v];
      const Vec second =
          reinterpret_cast<Vec>(_mm512_and_si512(pair, _mm512_set1_epi32(-65536))) * weight[v];
      pooled[j] = pooling == Pool::kSum ? pooled[j] + first : max(first, pooled[j]);
      pooled[j + 1] = pooling == Pool::kSum ? pooled[j + 1] + second : max(second, pooled[j + 1]);
    }
  }
  const __mmask16 real = first_lanes(count);
  const Vec before = _mm512_maskz_loadu_ps(real, scores);
  Vec after;
  if (pooling == Pool::kSum) {
    after = before + reduce(pooled);
  } else {
    for (int j = 0; j < kLanes; ++j) after[j] = max_of(pooled[j]);
    after = max(after, before);
  }
  _mm512_mask_storeu_ps(scores, real, after);
}

template <int kVecs>
void pool_group(const Queries& in, const Tile& tile, int64_t lane, const float* top,
                const float* sum, Pool pooling, float* scores) {
  constexpr int64_t width = kVecs * kLanes;
  const int32_t keys = count(all_keys(in));
  const int64_t queries = static_cast<int64_t>(in.rows) * in.heads;
  for (int32_t first = 0; first < keys; first += kBlock) {
    Vec weight[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      const int at = v * kLanes;
      const Vec then = load(tile.tops + first / kBlock * width + at);
      const Vec share = power_of_two(then - load(top + at)) / load(sum + at);
      // Surplus lanes repeat the last query and must not count.
      weight[v] = _mm512_maskz_mov_ps(first_lanes(queries - lane - at), share);
    }
    for (int j = 0; j < kBlock && first + j < keys; j += kLanes) {
      const int here = keys - first - j < kLanes ? keys - first - j : kLanes;
      pool_keys<kVecs>(tile.p + (first + j) / 2 * width, weight, here, pooling, scores + first + j);
    }
  }
}

// The workspace of one row.
struct Row {
  int64_t width;   // components of a row of q: dim, rounded up to whole vectors of bf16
  int64_t stride;  // keys, rounded up to whole blocks
  uint32_t* q;     // [heads][width] bf16
  float* logits;   // [heads][stride], base 2
  uint32_t* keys;  // [kBlock][width] bf16 copies of the keys of an int8 cache
};

int64_t lay_out(const Queries& in, int32_t keys, float* memory, Row& row) {
  WorkspaceLayout layout(memory);
  row.width = round_up(in.dim, kHalves);
  row.stride = round_up(keys, kBlock);
  layout.take(row.q, in.heads * row.width / 2);
  layout.take(row.logits, in.heads * row.stride);
  layout.take(row.keys, kBlock * row.width / 2);
  return layout.used();
}

// Adds the probabilities of one head to the scores. Its logits are −∞ from `count` up to a whole
// block.
void pool_head(float* logits, int32_t count, Pool pooling, float* scores) {
  Vec largest = broadcast(kLowest);
  for (int32_t j = 0; j < count; j += kLanes) largest = _mm512_max_ps(load(logits + j), largest);
  const Vec top = ceiling(broadcast(max_of(largest)));
  Vec sum{};
  for (int32_t j = 0; j < count; j += kLanes) {
    const Vec p = rough_exp2(load(logits + j) - top);
    store(logits + j, p);
    sum += p;
  }
  const Vec scale = broadcast(1.0f / sum_of(sum));
  for (int32_t j = 0; j < count; j += kLanes) {
    const __mmask16 real = first_lanes(count - j);
    const Vec p = load(logits + j) * scale;
    const Vec before = _mm512_maskz_loadu_ps(real, scores + j);
    _mm512_mask_storeu_ps(scores + j, real, pooling == Pool::kSum ? before + p : max(p, before));
  }
}

}  // namespace

int64_t bf16_pool_tile_workspace_size(const Queries& queries, int32_t keys) {
  Tile tile;
  return lay_out(queries, keys, nullptr, tile);
}

void pool_bf16_tile(const Queries& queries, const CachedRows& cache, Pool pooling, float* scores,
                    float* workspace) {
  Tile tile;
  const int32_t keys = count(all_keys(queries));
  lay_out(queries, keys, workspace, tile);
  load_queries(queries, tile.lanes);
  for (int32_t key = 0; key < keys; ++key) scores[key] = 0;
  for_each_group(tile.lanes, [&](auto vecs, int64_t lane) {
    alignas(64) float top[kMostWidth], sum[kMostWidth];
    collect_powers<vecs.value>(queries, cache, tile, lane, top, sum);
    pool_group<vecs.value>(queries, tile, lane, top, sum, pooling, scores);
  });
}

int64_t bf16_pool_row_workspace_size(const Queries& queries, int32_t keys) {
  Row row;
  return lay_out(queries, keys, nullptr, row);
}

void pool_bf16_row(const Queries& queries, const CachedRows& cache, Pool pooling, float* scores,
                   float* workspace) {
  Row row;
  const KeyList all = all_keys(queries);
  const int32_t keys = count(all);
  lay_out(queries, keys, workspace, row);
  auto* q = reinterpret_cast<uint16_t*>(row.q);
  load_row_queries(queries, row.width, q);
  BlockRows rows[2];
  find_rows(cache, all, 0, rows[0]);
  for (int32_t first = 0, now = 0; first < keys; first += kBlock, now = 1 - now) {
    find_rows(cache, all, first + kBlock, rows[1 - now]);
    if (cache.format == CacheFormat::kInt8) {
      widen_rows(rows[now].count, queries.dim, row.width, rows[now].keys,
                 reinterpret_cast<uint16_t*>(row.keys));
    }
    for_each_heads(queries.heads, [&](auto taken, int32_t head) {
      const bool asks = head == 0 && rows[1 - now].count > 0;
      dot_rows<taken.value>(q + head * row.width, row.width, rows[now].keys, rows[now].count,
                            queries.dim, asks ? rows[1 - now].keys : nullptr, row.stride,
                            row.logits + head * row.stride + first);
    });
  }
  for (int32_t head = 0; head < queries.heads; ++head) {
    pool_head(row.logits + head * row.stride, keys, pooling, scores);
  }
}

}  // namespace kascade::cpu::KASCADE_ISA
