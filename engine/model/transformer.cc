#include "engine/model/transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace kascade {
namespace {

// Columns of one tile of the head: large enough for an efficient product, small enough that a tile
// of logits stays in cache.
constexpr int32_t kHeadTile = 4096;

Buffer to_f32(Tensor vector) {
  Buffer copy(DType::kF32, 1, vector.cols);
  float* out = copy.view().f32(0);
  for (int64_t i = 0; i < vector.cols; ++i) {
    if (vector.dtype == DType::kF32) out[i] = vector.f32(0)[i];
    if (vector.dtype == DType::kBF16) out[i] = from_bf16(vector.bf16(0)[i]);
    if (vector.dtype == DType::kF16) out[i] = from_f16(vector.row<uint16_t>(0)[i]);
  }
  return copy;
}

void copy_rows(Tensor from, Tensor to) {
  for (int64_t row = 0; row < from.rows; ++row) {
    std::memcpy(to.f32(row), from.f32(row), from.cols * sizeof(float));
  }
}

}  // namespace

std::vector<MatrixSpec> matrix_specs(const ModelConfig& config) {
  const int64_t hidden = config.hidden, q_dim = config.q_dim(), ffn = config.intermediate;
  std::vector<MatrixSpec> specs;
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = absl::StrCat("layers.", layer, ".");
    specs.push_back({prefix + "qkv", q_dim + 2 * config.kv_dim(), hidden, MatrixUse::kLayer});
    specs.push_back({prefix + "attention_out", hidden, q_dim, MatrixUse::kLayer});
    specs.push_back({prefix + "gate_up", 2 * ffn, hidden, MatrixUse::kLayer});
    specs.push_back({prefix + "down", hidden, ffn, MatrixUse::kLayer});
  }
  for (int32_t first = 0; first < config.vocab; first += kHeadTile) {
    specs.push_back({absl::StrCat("head.", first / kHeadTile),
                     std::min(kHeadTile, config.vocab - first), hidden, MatrixUse::kHead});
  }
  return specs;
}

Transformer::Workspace::Workspace(const ModelConfig& config, int32_t rows)
    : x(DType::kF32, rows, config.hidden),
      before(DType::kF32, rows, config.hidden),
      normed(DType::kF32, rows, config.hidden),
      rotation(DType::kF32, rows, config.head_dim),
      qkv(DType::kF32, rows, config.q_dim() + 2 * config.kv_dim()),
      attended(DType::kF32, rows, config.q_dim()),
      gate_up(DType::kF32, rows, int64_t{2} * config.intermediate),
      gated(DType::kF32, rows, config.intermediate),
      hidden(DType::kF32, rows, config.hidden) {}

Transformer::Transformer(const ModelConfig& config, Checkpoint checkpoint, Backend& backend,
                         int32_t max_rows, std::optional<PackedFile> packed_file)
    : config_(config),
      checkpoint_(std::move(checkpoint)),
      backend_(backend),
      packed_file_(std::move(packed_file)),
      frequencies_(rope_frequencies(config)),
      norm_(to_f32(checkpoint_.norm)),
      workspace_(config, max_rows) {
  for (const LayerTensors& tensors : checkpoint_.layers) {
    layers_.push_back({.attention_norm = to_f32(tensors.attention_norm),
                       .qkv = packed({tensors.q, tensors.k, tensors.v}, MatrixUse::kLayer),
                       .attention_out = packed({tensors.o}, MatrixUse::kLayer),
                       .ffn_norm = to_f32(tensors.ffn_norm),
                       .gate_up = packed({tensors.gate, tensors.up}, MatrixUse::kLayer),
                       .down = packed({tensors.down}, MatrixUse::kLayer)});
  }
  for (int32_t first = 0; first < config_.vocab; first += kHeadTile) {
    const int32_t count = std::min(kHeadTile, config_.vocab - first);
    head_.push_back({first, packed({checkpoint_.head.slice_rows(first, count)}, MatrixUse::kHead)});
  }
}

std::unique_ptr<Matrix> Transformer::packed(std::initializer_list<Tensor> parts, MatrixUse use) {
  std::unique_ptr<Matrix> matrix;
  if (packed_file_) {
    KASCADE_CHECK(matrices_made_ < packed_file_->size());
    const PackedMatrix& stored = packed_file_->matrix(matrices_made_);
    matrix = backend_.adopt(packed_file_->bytes(matrices_made_), stored.out_features,
                            stored.in_features, use);
    KASCADE_CHECK(matrix != nullptr && matrix->in_features() == parts.begin()->cols);
  } else {
    matrix = backend_.pack(std::span<const Tensor>(parts.begin(), parts.size()), use);
  }
  ++matrices_made_;
  packed_bytes_ += matrix->bytes();
  // Else the process would hold the weights twice.
  for (const Tensor& part : parts) checkpoint_.release(part);
  return matrix;
}

std::vector<const Matrix*> Transformer::matrices() const {
  std::vector<const Matrix*> all;
  for (const LayerWeights& layer : layers_) {
    for (const auto* matrix : {&layer.qkv, &layer.attention_out, &layer.gate_up, &layer.down}) {
      all.push_back(matrix->get());
    }
  }
  for (const HeadTile& tile : head_) all.push_back(tile.matrix.get());
  return all;
}

Tensor Transformer::forward(const Step& step, const KvCache& cache) {
  const Batch& batch = step.batch;
  backend_.gather_rows(checkpoint_.embedding, batch.tokens, workspace_.x.first_rows(batch.rows()));
  fill_rotation(batch.positions);
  for (int32_t index = 0; index < config_.layers; ++index) layer(index, step, cache);

  const auto wanted = static_cast<int64_t>(batch.logit_rows.size());
  const Tensor last = workspace_.normed.first_rows(wanted);
  backend_.gather_rows(workspace_.x.view(), batch.logit_rows, last);
  const Tensor hidden = workspace_.hidden.first_rows(wanted);
  backend_.rms_norm(last, norm_.view(), static_cast<float>(config_.norm_eps), hidden);
  return hidden;
}

void Transformer::layer(int32_t index, const Step& step, const KvCache& cache) {
  const int64_t rows = step.batch.rows();
  const auto eps = static_cast<float>(config_.norm_eps);
  const LayerWeights& w = layers_[index];
  const Tensor x = workspace_.x.first_rows(rows);
  const Tensor normed = workspace_.normed.first_rows(rows);
  const Tensor gate_up = workspace_.gate_up.first_rows(rows);
  const Tensor gated = workspace_.gated.first_rows(rows);

  backend_.rms_norm(x, w.attention_norm.view(), eps, normed);
  attention(index, step, cache);

  backend_.rms_norm(x, w.ffn_norm.view(), eps, normed);
  backend_.matmul(normed, *w.gate_up, gate_up, Into::kOverwrite);
  backend_.silu_mul(gate_up, gated);
  backend_.matmul(gated, *w.down, x, Into::kAdd);
}

void Transformer::attention(int32_t index, const Step& step, const KvCache& cache) {
  const Batch& batch = step.batch;
  const LayerWeights& w = layers_[index];
  const LayerCache layer_cache = cache.layer(index);
  const Tensor x = workspace_.x.first_rows(batch.rows());
  const Tensor before = workspace_.before.first_rows(batch.rows());
  const Tensor qkv = workspace_.qkv.first_rows(batch.rows());
  const Tensor q = qkv.slice_cols(0, config_.q_dim());
  const Tensor k = qkv.slice_cols(config_.q_dim(), config_.kv_dim());
  const Tensor v = qkv.slice_cols(config_.q_dim() + config_.kv_dim(), config_.kv_dim());
  const Tensor attended = workspace_.attended.first_rows(batch.rows());
  const bool observed = std::ranges::any_of(
      step.groups, [](const AttentionGroup& group) { return group.policy->observes_residual(); });

  backend_.matmul(workspace_.normed.first_rows(batch.rows()), *w.qkv, qkv, Into::kOverwrite);
  backend_.rope(qkv, config_.heads + config_.kv_heads,
                workspace_.rotation.first_rows(batch.rows()));
  backend_.write_kv(k, v, batch.slots, layer_cache);
  for (const AttentionGroup& group : step.groups) {
    group.policy->attend(backend_, index, {q, layer_cache, batch, group.tiles, attended},
                         *group.scratch);
  }
  if (observed) copy_rows(x, before);
  backend_.matmul(attended, *w.attention_out, x, Into::kAdd);
  if (!observed) return;
  for (const AttentionGroup& group : step.groups) {
    if (!group.policy->observes_residual()) continue;
    group.policy->observe_residual(index, batch, group.tiles, before, x);
  }
}

// Angles in double: at position 100,000 an f32 product would be off by hundredths of a radian.
void Transformer::fill_rotation(std::span<const int32_t> positions) {
  const int32_t half = config_.head_dim / 2;
  for (size_t row = 0; row < positions.size(); ++row) {
    float* out = workspace_.rotation.view().f32(static_cast<int64_t>(row));
    for (int32_t pair = 0; pair < half; ++pair) {
      const double angle = positions[row] * frequencies_[pair];
      out[pair] = static_cast<float>(std::cos(angle));
      out[half + pair] = static_cast<float>(std::sin(angle));
    }
  }
}

int32_t Transformer::widest_head_tile() const {
  int64_t widest = 0;
  for (const HeadTile& tile : head_) widest = std::max(widest, tile.matrix->out_features());
  return static_cast<int32_t>(widest);
}

void Transformer::logits(Tensor hidden, Tensor out) {
  for (const HeadTile& tile : head_) {
    tile_logits(hidden, tile, out.slice_cols(tile.first_token, tile.matrix->out_features()));
  }
}

void Transformer::tile_logits(Tensor hidden, const HeadTile& tile, Tensor out) {
  backend_.matmul(hidden, *tile.matrix, out, Into::kOverwrite);
}

}  // namespace kascade
