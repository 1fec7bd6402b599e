#include "engine/training/frozen_layer.h"

#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/training/row_operations.h"

namespace kascade::training {
namespace {

template <typename T>
void add_bias(const Rows<T>& bias, Rows<T>& rows) {
  if (bias.values.empty()) return;
  for (int64_t r = 0; r < rows.rows; ++r) add_to(std::span<const T>(bias.values), rows.row(r));
}

}  // namespace

template <typename T>
Rows<T> values_of(Tensor tensor) {
  if (tensor.data == nullptr) return {};
  Rows<T> result(tensor.rows, tensor.cols);
  for (int64_t r = 0; r < tensor.rows; ++r) {
    for (int64_t c = 0; c < tensor.cols; ++c) {
      switch (tensor.dtype) {
        case DType::kF32:
          result.row(r)[c] = tensor.f32(r)[c];
          break;
        case DType::kBF16:
          result.row(r)[c] = from_bf16(tensor.bf16(r)[c]);
          break;
        case DType::kF16:
          result.row(r)[c] = from_f16(tensor.row<uint16_t>(r)[c]);
          break;
        default:
          KASCADE_CHECK(false);
      }
    }
  }
  return result;
}

template <typename T>
FrozenLayer<T>::FrozenLayer(const ModelConfig& config, const LayerTensors& tensors,
                            Products<T>& products)
    : tensors_(tensors),
      eps_(config.norm_eps),
      residual_multiplier_(config.residual_multiplier),
      attention_norm_(values_of<T>(tensors.attention_norm)),
      ffn_norm_(values_of<T>(tensors.ffn_norm)),
      q_bias_(values_of<T>(tensors.q_bias)),
      k_bias_(values_of<T>(tensors.k_bias)),
      v_bias_(values_of<T>(tensors.v_bias)),
      q_(values_of<T>(tensors.q), products),
      k_(values_of<T>(tensors.k), products),
      v_(values_of<T>(tensors.v), products),
      o_(values_of<T>(tensors.o), products),
      gate_(values_of<T>(tensors.gate), products),
      up_(values_of<T>(tensors.up), products),
      down_(values_of<T>(tensors.down), products) {}

template <typename T>
Rows<T> FrozenLayer<T>::normed(const Rows<T>& x) const {
  return rms_norm(x, attention_norm_.values.data(), eps_);
}

template <typename T>
AttentionRows<T> FrozenLayer<T>::project(Rows<T> hidden) const {
  AttentionRows<T> result{std::move(hidden), {}, {}, {}};
  result.queries = q_.apply(result.hidden);
  result.keys = k_.apply(result.hidden);
  result.values = v_.apply(result.hidden);
  add_bias(q_bias_, result.queries);
  add_bias(k_bias_, result.keys);
  add_bias(v_bias_, result.values);
  return result;
}

template <typename T>
Rows<T> FrozenLayer<T>::finish(const Rows<T>& x, const Rows<T>& output,
                               FeedForward<T>& activations) const {
  const auto multiplier = static_cast<T>(residual_multiplier_);
  activations.between = x;
  add_rows(output, activations.between, multiplier);
  const Rows<T> normed_rows = rms_norm(activations.between, ffn_norm_.values.data(), eps_);
  activations.gate = gate_.apply(normed_rows);
  activations.up = up_.apply(normed_rows);
  Rows<T> result = activations.between;
  add_rows(down_.apply(silu_mul(activations.gate, activations.up)), result, multiplier);
  return result;
}

template <typename T>
auto FrozenLayer<T>::finish_backward(const FeedForward<T>& activations,
                                     const Rows<T>& gradient) const -> FinishGradients {
  const auto multiplier = static_cast<T>(residual_multiplier_);
  Rows<T> gate = activations.gate;
  Rows<T> up = activations.up;
  silu_mul_backward(down_.apply_transposed(gradient), gate, up);
  Rows<T> normed_gradient = gate_.apply_transposed(gate);
  add_rows(up_.apply_transposed(up), normed_gradient);
  for (T& value : normed_gradient.values) value *= multiplier;

  FinishGradients result;
  result.x = gradient;
  rms_norm_backward(activations.between, ffn_norm_.values.data(), eps_, normed_gradient, result.x);
  result.output = result.x;
  for (T& value : result.output.values) value *= multiplier;
  return result;
}

template <typename T>
void FrozenLayer<T>::project_backward(AttentionRows<T>& gradients) const {
  add_rows(q_.apply_transposed(gradients.queries), gradients.hidden);
  add_rows(k_.apply_transposed(gradients.keys), gradients.hidden);
  add_rows(v_.apply_transposed(gradients.values), gradients.hidden);
}

template <typename T>
void FrozenLayer<T>::normed_backward(const Rows<T>& x, const Rows<T>& gradient,
                                     Rows<T>& x_gradient) const {
  rms_norm_backward(x, attention_norm_.values.data(), eps_, gradient, x_gradient);
}

template <typename T>
Rows<T> FrozenLayer<T>::projection_weight() const {
  Rows<T> result = values_of<T>(tensors_.q);
  for (const Tensor& part : {tensors_.k, tensors_.v}) {
    const Rows<T> below = values_of<T>(part);
    result.rows += below.rows;
    result.values.insert(result.values.end(), below.values.begin(), below.values.end());
  }
  return result;
}

absl::Status trainable(const ModelConfig& config, const Checkpoint& checkpoint) {
  std::string reason;
  if (config.head_norms) reason = "norms of query and key heads";
  if (config.attention_out_bias) reason = "a bias behind the attention's output projection";
  if (config.sliding_window) reason = "a sliding window";
  if (has_blocks(checkpoint.dtype)) {
    reason = absl::StrCat("weights of format ", std::string(name_of(checkpoint.dtype)));
  }
  if (reason.empty()) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("model ", config.name, ": adapters are not trained on models with ", reason));
}

double attention_scale(const ModelConfig& config) {
  return config.attention_multiplier.value_or(1 / std::sqrt(config.head_dim));
}

template Rows<float> values_of(Tensor);
template Rows<double> values_of(Tensor);
template class FrozenLayer<float>;
template class FrozenLayer<double>;

}  // namespace kascade::training
