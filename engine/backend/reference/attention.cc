#include "engine/backend/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "engine/backend/host/host_backend.h"
#include "engine/backend/int4_keys.h"
#include "engine/backend/reference/elements.h"

namespace kascade::reference {

std::vector<float> logits(const Query& query, LayerCache cache, const Batch& batch,
                          const std::vector<int32_t>& keys) {
  const int32_t* table = batch.block_table(query.tile);
  const int64_t dim = cache.keys.cols;
  std::vector<float> result;
  for (const int32_t key : keys) {
    const int64_t row =
        cache.row(table[key / cache.block_size], query.kv_head, key % cache.block_size);
    float dot = 0;
    for (int64_t d = 0; d < dim; ++d) dot += query.q[d] * load(cache.keys, row, d);
    result.push_back(dot / std::sqrt(static_cast<float>(dim)));
  }
  return result;
}

std::vector<float> int4_logits(const Query& query, LayerCache cache, const Batch& batch,
                               const std::vector<int32_t>& keys) {
  const int32_t* table = batch.block_table(query.tile);
  const int64_t dim = cache.keys.cols;
  std::vector<int8_t> levels(static_cast<size_t>(dim)), key_levels(levels.size());
  const float scale = quantize_query(query.q, dim, levels.data());
  const float factor = scale / std::sqrt(static_cast<float>(dim));
  std::vector<float> result;
  for (const int32_t key : keys) {
    const int32_t offset = key % cache.block_size;
    const float key_scale =
        read_int4_key(cache.int4_panel(table[key / cache.block_size], query.kv_head, offset), dim,
                      offset % kInt4KeyPanel, key_levels.data());
    int32_t sum = 0;
    for (size_t d = 0; d < levels.size(); ++d) sum += levels[d] * key_levels[d];
    result.push_back(static_cast<float>(sum) * key_scale * factor);
  }
  return result;
}

std::vector<float> softmax(std::vector<float> p) {
  if (p.empty()) return p;
  const float largest = *std::max_element(p.begin(), p.end());
  float sum = 0;
  for (float& value : p) {
    value = std::exp(value - largest);
    sum += value;
  }
  for (float& value : p) value /= sum;
  return p;
}

std::vector<int32_t> range(int32_t begin, int32_t end) {
  std::vector<int32_t> keys(static_cast<size_t>(std::max(end - begin, 0)));
  std::iota(keys.begin(), keys.end(), begin);
  return keys;
}

std::vector<int32_t> keys_of_row(const Batch& batch, TileRange tiles, int32_t tile,
                                 int32_t position, const KeySet& set, int32_t kv_head) {
  if (set.selection == nullptr) return range(0, position + 1);
  const int32_t source = set.head_map.empty() ? kv_head : set.head_map[kv_head];
  std::vector<int32_t> keys = range(0, batch.candidate_begin[tile]);
  const auto chosen = host_selection(*set.selection).keys(tile - tiles.begin, source);
  keys.insert(keys.end(), chosen.begin(), chosen.end());
  const std::vector<int32_t> own = range(batch.candidate_end[tile], position + 1);
  keys.insert(keys.end(), own.begin(), own.end());
  return keys;
}

std::vector<int32_t> best_keys(const float* scores, int32_t begin, int32_t end, int32_t budget,
                               int32_t unit) {
  std::vector<float> best;  // largest score of each unit; NaN ranks lowest
  for (int32_t first = begin; first < end; first += unit) {
    float largest = -std::numeric_limits<float>::infinity();
    for (int32_t key = first; key < std::min(first + unit, end); ++key) {
      if (scores[key] > largest) largest = scores[key];
    }
    best.push_back(largest);
  }
  std::vector<int32_t> order = range(0, static_cast<int32_t>(best.size()));
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return best[a] > best[b]; });
  order.resize(static_cast<size_t>(budget / unit));
  std::vector<int32_t> keys;
  for (const int32_t index : order) {
    for (int32_t i = 0; i < unit; ++i) keys.push_back(begin + index * unit + i);
  }
  std::sort(keys.begin(), keys.end());
  return keys;
}

int32_t keys_for_mass(const float* scores, int32_t begin, int32_t end, int32_t causal,
                      int32_t budget, const SelectOptions& options) {
  uint64_t total = 0, attended = 0;
  for (int32_t key = 0; key < causal; ++key) {
    total += score_in_steps(scores[key]);
    if (key < begin || key >= end) attended += score_in_steps(scores[key]);
  }
  std::vector<uint64_t> candidates;
  for (int32_t key = begin; key < end; ++key) candidates.push_back(score_in_steps(scores[key]));
  std::sort(candidates.begin(), candidates.end(), std::greater<>());
  const uint64_t wanted = steps_to_cover(options.mass, total);
  int32_t count = 0;
  while (count < budget && (count < least_keys(options, budget) || attended < wanted)) {
    attended += candidates[static_cast<size_t>(count++)];
  }
  return count;
}

}  // namespace kascade::reference
