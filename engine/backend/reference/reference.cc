// The reference backend: defines in plain loops what every operation of a backend means. It
// computes in f32, one row at a time, with keys in ascending order. A row's arithmetic does not
// depend on the other rows of the step, so a prompt gives the same bits whole and in chunks.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/block_formats.h"
#include "engine/backend/host/host_backend.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/host/select.h"
#include "engine/backend/reference/elements.h"
#include "engine/backend/reference/reference_matrix.h"

namespace kascade {
namespace {

using reference::load;
using reference::store_row;

// One query head at one position, with the tile of its row and the KV head that it reads.
struct Query {
  const float* q;
  int32_t tile;
  int32_t kv_head;
};

// The softmax of q·kᵀ/√D over `keys`, in their order. Without keys there are no probabilities, and
// the output of such a row is 0.
std::vector<float> probabilities(const Query& query, LayerCache cache, const Batch& batch,
                                 const std::vector<int32_t>& keys) {
  const int32_t* table = batch.block_table(query.tile);
  const int64_t dim = cache.keys.cols;
  std::vector<float> p(keys.size());
  for (size_t j = 0; j < keys.size(); ++j) {
    const int64_t row =
        cache.row(table[keys[j] / cache.block_size], query.kv_head, keys[j] % cache.block_size);
    float dot = 0;
    for (int64_t d = 0; d < dim; ++d) dot += query.q[d] * load(cache.keys, row, d);
    p[j] = dot / std::sqrt(static_cast<float>(dim));
  }
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

// The positions of the keys that a row of tile `tile` attends to for one KV head, ascending. `tile`
// counts from the first tile of the batch.
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

// Selects `budget` keys of [begin, end) in runs of `unit` keys, ranked by their largest score;
// returns them in ascending order.
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

// The number of keys to select for options.mass: of the keys [begin, end), in order of descending
// score, those that bring the scores of all attended keys to the share `mass` of those of all keys
// [0, causal).
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

class ReferenceBackend final : public HostBackend {
 public:
  ReferenceBackend(WeightFormat weights, DType cache) : weights_(weights), cache_(cache) {}

  BackendInfo info() const override { return {.name = "reference"}; }
  Precision precision() const override { return {weights_, cache_}; }

  std::unique_ptr<Matrix> pack(std::span<const Tensor> parts, MatrixUse use) override {
    const bool integer_head = weights_ != WeightFormat::kF32 && use == MatrixUse::kHead;
    return reference::pack_matrix(parts, integer_head ? WeightFormat::kInt8 : weights_);
  }

  void matmul(Tensor x, const Matrix& w, Tensor out, Into into) override {
    reference::multiply(x, w, out, into);
  }

  void embed(const EmbeddingTable& embedding, const StepInput& step, Tensor out) override {
    const Tensor table = static_cast<const HostEmbedding&>(embedding).table();
    const std::vector<int32_t>& tokens = batch_of(step).tokens;
    for (size_t row = 0; row < tokens.size(); ++row) {
      float* to = out.f32(static_cast<int64_t>(row));
      if (has_blocks(table.dtype)) {
        dequantize_row(table.dtype, table.row<std::byte>(tokens[row]), table.cols, to);
        continue;
      }
      for (int64_t col = 0; col < table.cols; ++col) to[col] = load(table, tokens[row], col);
    }
  }

  void rms_norm(Tensor x, Tensor weight, float eps, Tensor out) override {
    for (int64_t row = 0; row < x.rows; ++row) {
      float squares = 0;
      for (int64_t i = 0; i < x.cols; ++i) squares += x.f32(row)[i] * x.f32(row)[i];
      const float scale = 1.0f / std::sqrt(squares / static_cast<float>(x.cols) + eps);
      for (int64_t i = 0; i < x.cols; ++i) {
        out.f32(row)[i] = x.f32(row)[i] * scale * weight.f32(0)[i];
      }
    }
  }

  void rms_norm_heads(Tensor x, Tensor weight, float eps) override {
    for (int64_t first = 0; first < x.cols; first += weight.cols) {
      const Tensor head = x.slice_cols(first, weight.cols);
      rms_norm(head, weight, eps, head);
    }
  }

  void add_bias(Tensor x, Tensor bias) override {
    for (int64_t row = 0; row < x.rows; ++row) {
      for (int64_t i = 0; i < x.cols; ++i) x.f32(row)[i] += bias.f32(0)[i];
    }
  }

  void scale(Tensor x, float factor) override {
    for (int64_t row = 0; row < x.rows; ++row) {
      for (int64_t i = 0; i < x.cols; ++i) x.f32(row)[i] *= factor;
    }
  }

  void rope(Tensor x, int32_t heads, Tensor rotation) override {
    const int64_t half = rotation.cols / 2;
    for (int64_t row = 0; row < x.rows; ++row) {
      for (int32_t head = 0; head < heads; ++head) {
        float* v = x.f32(row) + head * rotation.cols;
        for (int64_t p = 0; p < half; ++p) {
          const float cosine = rotation.f32(row)[p];
          const float sine = rotation.f32(row)[half + p];
          const float low = v[p], high = v[half + p];
          v[p] = low * cosine - high * sine;
          v[half + p] = high * cosine + low * sine;
        }
      }
    }
  }

  void write_kv(Tensor keys, Tensor values, const StepInput& step, LayerCache cache) override {
    const std::vector<int32_t>& slots = batch_of(step).slots;
    const int64_t dim = cache.keys.cols;
    for (size_t i = 0; i < slots.size(); ++i) {
      const auto row = static_cast<int64_t>(i);
      for (int32_t g = 0; g < cache.kv_heads; ++g) {
        const int64_t to = cache.row(slots[i] / cache.block_size, g, slots[i] % cache.block_size);
        store_row(keys.f32(row) + g * dim, cache.keys, to);
        store_row(values.f32(row) + g * dim, cache.values, to);
      }
    }
  }

  void silu_mul(Tensor gate_up, Tensor out) override {
    for (int64_t row = 0; row < gate_up.rows; ++row) {
      for (int64_t i = 0; i < out.cols; ++i) {
        const float gate = gate_up.f32(row)[i];
        out.f32(row)[i] = gate / (1.0f + std::exp(-gate)) * gate_up.f32(row)[out.cols + i];
      }
    }
  }

  void attend(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
              const KeySet& keys, Tensor out) override {
    const Batch& batch = batch_of(step);
    for (int32_t tile = tiles.begin; tile < tiles.begin + tiles.count; ++tile) {
      for (int32_t row = batch.tile_start[tile]; row < batch.tile_start[tile + 1]; ++row) {
        for (int32_t g = 0; g < cache.kv_heads; ++g) {
          const auto attended = keys_of_row(batch, tiles, tile, batch.positions[row], keys, g);
          attend_group(q, cache, batch, tile, row, g, attended, out);
        }
      }
    }
  }

  void pool_scores(Tensor q, LayerCache cache, const StepInput& step, int32_t tile, Pooling pooling,
                   Tensor scores) override {
    const Batch& batch = batch_of(step);
    const int32_t last = batch.tile_start[tile + 1] - 1;
    const bool all_rows = pooling == Pooling::kSum || pooling == Pooling::kMax;
    const int32_t first = all_rows ? batch.tile_start[tile] : last;
    const int64_t dim = cache.keys.cols;
    const int64_t group = q.cols / dim / cache.kv_heads;
    for (int32_t g = 0; g < cache.kv_heads; ++g) {
      float* pooled = scores.f32(g);
      std::fill_n(pooled, batch.positions[last] + 1, 0.0f);
      for (int32_t row = first; row <= last; ++row) {
        for (int64_t head = g * group; head < (g + 1) * group; ++head) {
          const auto p = probabilities({q.f32(row) + head * dim, tile, g}, cache, batch,
                                       range(0, batch.positions[row] + 1));
          for (size_t j = 0; j < p.size(); ++j) {
            pooled[j] = takes_largest(pooling) ? std::max(pooled[j], p[j]) : pooled[j] + p[j];
          }
        }
      }
    }
  }

  void select_keys(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                   const SelectOptions& options, Selection& selection) override {
    const Batch& batch = batch_of(step);
    HostSelection& chosen = host_selection(selection);
    chosen.reset(batch, tiles, cache.kv_heads);
    for (int32_t i = 0; i < tiles.count; ++i) {
      select_of_tile(q, cache, step, tiles.begin + i, i, options, chosen);
    }
  }

  void select_pages(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                    int32_t page_size, Selection& selection) override {
    const Batch& batch = batch_of(step);
    HostSelection& chosen = host_selection(selection);
    chosen.reset(batch, tiles, cache.kv_heads);
    for (int32_t i = 0; i < tiles.count; ++i) {
      const int32_t tile = tiles.begin + i;
      const int32_t begin = batch.candidate_begin[tile], end = batch.candidate_end[tile];
      const int32_t budget = batch.budget[tile];
      for (int32_t g = 0; g < cache.kv_heads; ++g) {
        const bool all = budget == end - begin;
        const auto scores =
            all ? std::vector<float>() : page_scores(q, cache, batch, tile, g, page_size);
        store_choice(
            all ? range(begin, end) : best_keys(scores.data(), begin, end, budget, page_size), i, g,
            chosen);
      }
    }
  }

 private:
  // Attends for all query heads of KV head g in one row.
  static void attend_group(Tensor q, LayerCache cache, const Batch& batch, int32_t tile,
                           int32_t row, int32_t g, const std::vector<int32_t>& keys, Tensor out) {
    const int32_t* table = batch.block_table(tile);
    const int64_t dim = cache.keys.cols;
    const int64_t group = q.cols / dim / cache.kv_heads;
    for (int64_t head = g * group; head < (g + 1) * group; ++head) {
      const auto p = probabilities({q.f32(row) + head * dim, tile, g}, cache, batch, keys);
      float* to = out.f32(row) + head * dim;
      std::fill_n(to, dim, 0.0f);
      for (size_t j = 0; j < keys.size(); ++j) {
        const int64_t from =
            cache.row(table[keys[j] / cache.block_size], g, keys[j] % cache.block_size);
        for (int64_t d = 0; d < dim; ++d) to[d] += p[j] * load(cache.values, from, d);
      }
    }
  }

  // Selects the keys of one tile. `index` is the tile's index in the selection.
  void select_of_tile(Tensor q, LayerCache cache, const StepInput& step, int32_t tile,
                      int32_t index, const SelectOptions& options, HostSelection& selection) {
    const Batch& batch = batch_of(step);
    const int32_t begin = batch.candidate_begin[tile], end = batch.candidate_end[tile];
    const int32_t budget = batch.budget[tile];
    const int32_t length = batch.positions[batch.tile_start[tile + 1] - 1] + 1;
    HostBuffer scores(DType::kF32, cache.kv_heads, length);
    const bool all = least_keys(options, budget) == end - begin;
    if (!all) pool_scores(q, cache, step, tile, options.pooling, scores.view());
    if (options.all_heads) pool_heads(scores.view(), options.pooling);
    for (int32_t g = 0; g < cache.kv_heads; ++g) {
      const float* of_head = scores.view().f32(options.all_heads ? 0 : g);
      const bool fixed = all || options.mass == 0;
      const int32_t count =
          fixed ? budget : keys_for_mass(of_head, begin, end, length, budget, options);
      store_choice(all ? range(begin, end) : best_keys(of_head, begin, end, count, options.unit),
                   index, g, selection);
    }
  }

  static void store_choice(const std::vector<int32_t>& keys, int32_t index, int32_t g,
                           HostSelection& selection) {
    std::copy(keys.begin(), keys.end(), selection.slot(index, g).begin());
    selection.set_count(index, g, static_cast<int32_t>(keys.size()));
  }

  // The score of each key: the bound of its page.
  static std::vector<float> page_scores(Tensor q, LayerCache cache, const Batch& batch,
                                        int32_t tile, int32_t g, int32_t page_size) {
    const int64_t dim = cache.keys.cols;
    const int64_t group = q.cols / dim / cache.kv_heads;
    std::vector<float> scores(static_cast<size_t>(batch.candidate_end[tile]),
                              -std::numeric_limits<float>::infinity());
    for (int32_t page = 0; page < batch.candidate_end[tile]; page += page_size) {
      for (int32_t row = batch.tile_start[tile]; row < batch.tile_start[tile + 1]; ++row) {
        for (int64_t head = g * group; head < (g + 1) * group; ++head) {
          float bound = 0;
          for (int64_t d = 0; d < dim; ++d) {
            const auto [least, largest] =
                component_bounds(cache, batch, tile, g, page, page_size, d);
            const float component = q.f32(row)[head * dim + d];
            bound += std::max(component * least, component * largest);
          }
          for (int32_t key = page; key < page + page_size; ++key) {
            scores[key] = std::max(scores[key], bound);
          }
        }
      }
    }
    return scores;
  }

  static std::pair<float, float> component_bounds(LayerCache cache, const Batch& batch,
                                                  int32_t tile, int32_t g, int32_t page,
                                                  int32_t page_size, int64_t d) {
    const int32_t* table = batch.block_table(tile);
    float least = std::numeric_limits<float>::infinity();
    float largest = -least;
    for (int32_t key = page; key < page + page_size; ++key) {
      const int64_t row = cache.row(table[key / cache.block_size], g, key % cache.block_size);
      least = std::min(least, load(cache.keys, row, d));
      largest = std::max(largest, load(cache.keys, row, d));
    }
    return {least, largest};
  }

  WeightFormat weights_;
  DType cache_;
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend(WeightFormat weights, std::optional<DType> cache) {
  return std::make_unique<ReferenceBackend>(weights, cache.value_or(default_cache(weights)));
}

}  // namespace kascade
