// The reference backend: defines in plain loops what every operation of a backend means. It
// computes in f32, one row at a time, with keys in ascending order. A row's arithmetic does not
// depend on the other rows of the step, so a prompt gives the same bits whole and in chunks.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/block_formats.h"
#include "engine/backend/host/host_backend.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/host/select.h"
#include "engine/backend/int4_keys.h"
#include "engine/backend/reference/attention.h"
#include "engine/backend/reference/elements.h"
#include "engine/backend/reference/reference_matrix.h"
#include "engine/base/check.h"

namespace kascade {
namespace {

using reference::best_keys;
using reference::int4_logits;
using reference::keys_for_mass;
using reference::keys_of_row;
using reference::load;
using reference::logits;
using reference::Query;
using reference::range;
using reference::softmax;
using reference::store_row;

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
        if (!cache.has_int4_keys()) continue;
        const int32_t offset = slots[i] % cache.block_size;
        write_int4_key(keys.f32(row) + g * dim, dim, offset % kInt4KeyPanel,
                       cache.int4_panel(slots[i] / cache.block_size, g, offset));
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
    pool(q, cache, batch_of(step), tile, pooling, /*by_int4_keys=*/false, scores);
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
  static void pool(Tensor q, LayerCache cache, const Batch& batch, int32_t tile, Pooling pooling,
                   bool by_int4_keys, Tensor scores) {
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
          const Query query{q.f32(row) + head * dim, tile, g};
          const std::vector<int32_t> keys = range(0, batch.positions[row] + 1);
          const auto p = softmax(by_int4_keys ? int4_logits(query, cache, batch, keys)
                                              : logits(query, cache, batch, keys));
          for (size_t j = 0; j < p.size(); ++j) {
            pooled[j] = takes_largest(pooling) ? std::max(pooled[j], p[j]) : pooled[j] + p[j];
          }
        }
      }
    }
  }

  // Attends for all query heads of KV head g in one row.
  static void attend_group(Tensor q, LayerCache cache, const Batch& batch, int32_t tile,
                           int32_t row, int32_t g, const std::vector<int32_t>& keys, Tensor out) {
    const int32_t* table = batch.block_table(tile);
    const int64_t dim = cache.keys.cols;
    const int64_t group = q.cols / dim / cache.kv_heads;
    for (int64_t head = g * group; head < (g + 1) * group; ++head) {
      const auto p = softmax(logits({q.f32(row) + head * dim, tile, g}, cache, batch, keys));
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
    if (!all) {
      KASCADE_CHECK(!options.by_int4_keys || cache.has_int4_keys());
      pool(q, cache, batch, tile, options.pooling, options.by_int4_keys, scores.view());
    }
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
