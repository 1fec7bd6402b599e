#include "engine/model/transformer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace kascade {
namespace {

// Appends a vector of the checkpoint, if the model has it.
void append(Tensor vector, std::vector<float>& values) {
  if (vector.data == nullptr) return;
  for (int64_t i = 0; i < vector.cols; ++i) {
    if (vector.dtype == DType::kF32) values.push_back(vector.f32(0)[i]);
    if (vector.dtype == DType::kBF16) values.push_back(from_bf16(vector.bf16(0)[i]));
    if (vector.dtype == DType::kF16) values.push_back(from_f16(vector.row<uint16_t>(0)[i]));
  }
}

// Uploads vectors of the checkpoint, one behind the other, as f32, multiplied by `factor`. Without
// any the buffer is not allocated.
Buffer uploaded(std::initializer_list<Tensor> vectors, Backend& backend, double factor = 1) {
  std::vector<float> values;
  for (const Tensor vector : vectors) append(vector, values);
  if (values.empty()) return {};
  for (float& value : values) value = static_cast<float>(value * factor);
  Buffer buffer = backend.allocate(DType::kF32, 1, static_cast<int64_t>(values.size()));
  backend.upload(std::as_bytes(std::span(values)), buffer.view());
  return buffer;
}

}  // namespace

Transformer::Workspace::Workspace(const ModelConfig& config, int32_t rows, Backend& backend) {
  const auto f32 = [&](int64_t cols) { return backend.allocate(DType::kF32, rows, cols); };
  x = f32(config.hidden);
  before = f32(config.hidden);
  normed = f32(config.hidden);
  rotation = f32(config.head_dim);
  qkv = f32(config.q_dim() + 2 * config.kv_dim());
  attended = f32(config.q_dim());
  gate_up = f32(int64_t{2} * config.intermediate);
  gated = f32(config.intermediate);
  hidden = f32(config.hidden);
}

Transformer::Transformer(const ModelConfig& config, Checkpoint checkpoint, Backend& backend,
                         int32_t max_rows, std::optional<PackedFile> packed_file)
    : config_(config),
      checkpoint_(std::move(checkpoint)),
      backend_(backend),
      embedding_(backend.adopt_embedding(checkpoint_.embedding)),
      packed_file_(std::move(packed_file)),
      frequencies_(rope_frequencies(config)),
      norm_(uploaded({checkpoint_.norm}, backend)),
      parts_(matrix_parts(checkpoint_)),
      workspace_(config, max_rows, backend) {
  for (const LayerTensors& tensors : checkpoint_.layers) layers_.push_back(packed_layer(tensors));
  for (int32_t first = 0; first < config_.vocab; first += kHeadTile) {
    head_.push_back({first, next_matrix(MatrixUse::kHead)});
  }
}

int64_t Transformer::mapped_weight_bytes() const {
  if (!checkpoint_.files) return 0;
  const Tensor& table = checkpoint_.embedding;
  return table.rows * row_elements(table.dtype, table.cols) * size_of(table.dtype) +
         (packed_file_ ? packed_bytes_ : 0);
}

// The matrices are made in the order in which they stand here, which is that of matrix_specs().
LayerWeights Transformer::packed_layer(const LayerTensors& tensors) {
  return {.attention_norm = uploaded({tensors.attention_norm}, backend_),
          .qkv = next_matrix(MatrixUse::kLayer),
          .qkv_bias = uploaded({tensors.q_bias, tensors.k_bias, tensors.v_bias}, backend_),
          .q_norm = uploaded({tensors.q_norm}, backend_),
          .k_norm = uploaded({tensors.k_norm}, backend_),
          .attention_out = next_matrix(MatrixUse::kLayer),
          .attention_out_bias = uploaded({tensors.o_bias}, backend_, config_.residual_multiplier),
          .ffn_norm = uploaded({tensors.ffn_norm}, backend_),
          .gate_up = next_matrix(MatrixUse::kLayer),
          .down = next_matrix(MatrixUse::kLayer)};
}

std::unique_ptr<Matrix> Transformer::next_matrix(MatrixUse use) {
  KASCADE_CHECK(matrices_made_ < parts_.size());
  const std::span<const Tensor> parts = parts_[matrices_made_];
  std::unique_ptr<Matrix> matrix;
  if (packed_file_) {
    KASCADE_CHECK(matrices_made_ < packed_file_->size());
    matrix = backend_.adopt(packed_file_->bytes(matrices_made_), parts, use);
    KASCADE_CHECK(matrix != nullptr);
  } else {
    matrix = backend_.pack(parts, use);
  }
  ++matrices_made_;
  packed_bytes_ += matrix->bytes();
  // Otherwise the process would hold the weights twice.
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
  const int64_t rows = step.batch.rows();
  const std::unique_ptr<StepInput> input = backend_.prepare(step.batch);
  backend_.embed(*embedding_, *input, workspace_.x.first_rows(rows));
  scale(workspace_.x.first_rows(rows), config_.embedding_multiplier);
  backend_.rotary_angles(*input, frequencies_, workspace_.rotation.first_rows(rows));
  scale(workspace_.rotation.first_rows(rows), rope_magnitude(config_));
  for (int32_t index = 0; index < config_.layers; ++index) {
    layer(index, step, *input, cache);
    layers_computed_.fetch_add(1, std::memory_order_relaxed);
  }

  const auto wanted = static_cast<int64_t>(step.batch.logit_rows.size());
  const Tensor last = workspace_.normed.first_rows(wanted);
  backend_.gather_rows(workspace_.x.view(), step.batch.logit_rows, last);
  const Tensor hidden = workspace_.hidden.first_rows(wanted);
  backend_.rms_norm(last, norm_.view(), static_cast<float>(config_.norm_eps), hidden);
  scale(hidden, 1 / config_.logits_divisor);
  return hidden;
}

void Transformer::layer(int32_t index, const Step& step, const StepInput& input,
                        const KvCache& cache) {
  const int64_t rows = step.batch.rows();
  const auto eps = static_cast<float>(config_.norm_eps);
  const LayerWeights& w = layers_[index];
  const Tensor x = workspace_.x.first_rows(rows);
  const Tensor normed = workspace_.normed.first_rows(rows);
  const Tensor gate_up = workspace_.gate_up.first_rows(rows);
  const Tensor gated = workspace_.gated.first_rows(rows);

  backend_.rms_norm(x, w.attention_norm.view(), eps, normed);
  attention(index, step, input, cache);
  add_attention(index, step);

  backend_.rms_norm(x, w.ffn_norm.view(), eps, normed);
  backend_.matmul(normed, *w.gate_up, gate_up, Into::kOverwrite);
  backend_.silu_mul(gate_up, gated);
  scale(gated, config_.residual_multiplier);
  backend_.matmul(gated, *w.down, x, Into::kAdd);
}

void Transformer::attention(int32_t index, const Step& step, const StepInput& input,
                            const KvCache& cache) {
  const int64_t rows = step.batch.rows();
  const LayerCache layer_cache = cache.layer(index);
  const Tensor normed = workspace_.normed.first_rows(rows);
  const Tensor qkv = workspace_.qkv.first_rows(rows);
  const Tensor q = qkv.slice_cols(0, config_.q_dim());
  const Tensor k = qkv.slice_cols(config_.q_dim(), config_.kv_dim());
  const Tensor v = qkv.slice_cols(config_.q_dim() + config_.kv_dim(), config_.kv_dim());
  const Tensor attended = workspace_.attended.first_rows(rows);
  const auto input_of = [&](TileRange tiles) -> AttentionInput {
    return {q, normed, layer_cache, step.batch, input, tiles, attended};
  };

  project_qkv(layers_[index], normed, qkv);
  backend_.write_kv(k, v, input, layer_cache);
  for (const AttentionGroup& group : step.groups) {
    const auto selected_before = group.state->selection_time();
    const auto begin = std::chrono::steady_clock::now();
    group.policy->attend(backend_, index, input_of(group.tiles), *group.state);
    const auto selection = group.state->selection_time() - selected_before;
    attention_times_.selection += selection;
    attention_times_.attention += std::chrono::steady_clock::now() - begin - selection;
  }
  for (const ObservedTiles& observed : step.observed) {
    const AttentionGroup& group = step.groups[observed.group];
    AttendedKeys keys = group.policy->attended_keys(index, *group.state);
    keys.first_tile = group.tiles.begin;
    observed.observer->attention_computed(backend_, index, input_of(observed.tiles), keys);
  }
}

void Transformer::project_qkv(const LayerWeights& w, Tensor normed, Tensor qkv) {
  const auto eps = static_cast<float>(config_.norm_eps);
  const Tensor q = qkv.slice_cols(0, config_.q_dim());
  backend_.matmul(normed, *w.qkv, qkv, Into::kOverwrite);
  if (w.qkv_bias.allocated()) backend_.add_bias(qkv, w.qkv_bias.view());
  if (w.q_norm.allocated()) {
    backend_.rms_norm_heads(q, w.q_norm.view(), eps);
    backend_.rms_norm_heads(qkv.slice_cols(config_.q_dim(), config_.kv_dim()), w.k_norm.view(),
                            eps);
  }
  backend_.rope(qkv, config_.heads + config_.kv_heads, workspace_.rotation.first_rows(qkv.rows));
  // The backend divides q·k by √head_dim.
  const double divided = std::sqrt(config_.head_dim);
  if (config_.attention_multiplier) scale(q, *config_.attention_multiplier * divided);
}

void Transformer::scale(Tensor x, double factor) {
  if (factor != 1) backend_.scale(x, static_cast<float>(factor));
}

void Transformer::add_attention(int32_t index, const Step& step) {
  const int64_t rows = step.batch.rows();
  const Tensor x = workspace_.x.first_rows(rows);
  const Tensor before = workspace_.before.first_rows(rows);
  const Tensor attended = workspace_.attended.first_rows(rows);
  const LayerWeights& w = layers_[index];
  if (!step.observed.empty()) backend_.copy(x, before);
  scale(attended, config_.residual_multiplier);
  backend_.matmul(attended, *w.attention_out, x, Into::kAdd);
  if (w.attention_out_bias.allocated()) backend_.add_bias(x, w.attention_out_bias.view());
  for (const ObservedTiles& observed : step.observed) {
    observed.observer->residual_added(backend_, index, step.batch, observed.tiles, before, x);
  }
}

int64_t Transformer::widest_head_tile() const {
  int64_t widest = 0;
  for (const HeadTile& tile : head_) widest = std::max(widest, tile.matrix->out_features());
  return widest;
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
