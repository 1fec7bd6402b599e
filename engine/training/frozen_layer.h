// A layer of the frozen model, forwards and backwards: its weights have no gradients, its inputs
// do.
#ifndef KASCADE_ENGINE_TRAINING_FROZEN_LAYER_H_
#define KASCADE_ENGINE_TRAINING_FROZEN_LAYER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/training/adapter_attention.h"
#include "engine/training/rotation.h"
#include "engine/training/rows.h"

namespace kascade::training {

// The values of a checkpoint's f32, bf16 or f16 tensor.
template <typename T>
Rows<T> values_of(Tensor tensor);

// A frozen matrix, prepared for products with rows and with gradients of rows.
template <typename T>
class FrozenMatrix {
 public:
  FrozenMatrix(const Rows<T>& weight, Products<T>& products)  // [out, in]
      : products_(&products),
        weight_(products.prepare(weight)),
        transposed_(products.prepare(transposed(weight))) {}

  Rows<T> apply(const Rows<T>& rows) const { return products_->times(rows, *weight_); }
  Rows<T> apply_transposed(const Rows<T>& gradients) const {
    return products_->times(gradients, *transposed_);
  }

 private:
  Products<T>* products_;
  std::unique_ptr<typename Products<T>::Factor> weight_;
  std::unique_ptr<typename Products<T>::Factor> transposed_;
};

// What the feed-forward part of a layer leaves for its backward pass.
template <typename T>
struct FeedForward {
  Rows<T> between{};  // residual stream between attention and feed-forward network
  Rows<T> gate{};
  Rows<T> up{};
};

template <typename T>
class FrozenLayer {
 public:
  // The model must be one that trainable() accepts. `products` and the memory of `tensors` must
  // outlive the layer.
  FrozenLayer(const ModelConfig& config, const LayerTensors& tensors, Products<T>& products);

  // The layer's input after its norm: what queries, keys, values and gates are computed from.
  Rows<T> normed(const Rows<T>& x) const;
  AttentionRows<T> project(Rows<T> hidden) const;
  // The attention's output as it is added to the residual stream, [tokens, hidden].
  Rows<T> output(const Rows<T>& attended) const { return o_.apply(attended); }
  // The rest of the layer: adds the output to x and applies the feed-forward network. Returns the
  // residual stream after the layer.
  Rows<T> finish(const Rows<T>& x, const Rows<T>& output, FeedForward<T>& activations) const;

  // The gradient of `output`, and the part of that of x that comes through the residual connection,
  // given that of the layer's result.
  struct FinishGradients {
    Rows<T> output;
    Rows<T> x;
  };
  FinishGradients finish_backward(const FeedForward<T>& activations, const Rows<T>& gradient) const;
  Rows<T> output_backward(const Rows<T>& gradient) const { return o_.apply_transposed(gradient); }
  // Adds the gradients of queries, keys and values to that of the hidden rows.
  void project_backward(AttentionRows<T>& gradients) const;
  void normed_backward(const Rows<T>& x, const Rows<T>& gradient, Rows<T>& x_gradient) const;

  Rows<T> output_weight() const { return values_of<T>(tensors_.o); }
  // [q; k; v] one below the other.
  Rows<T> projection_weight() const;

 private:
  LayerTensors tensors_;
  double eps_;
  double residual_multiplier_;
  Rows<T> attention_norm_;  // [1, hidden]
  Rows<T> ffn_norm_;
  Rows<T> q_bias_;  // [1, …], empty without biases
  Rows<T> k_bias_;
  Rows<T> v_bias_;
  FrozenMatrix<T> q_;
  FrozenMatrix<T> k_;
  FrozenMatrix<T> v_;
  FrozenMatrix<T> o_;
  FrozenMatrix<T> gate_;
  FrozenMatrix<T> up_;
  FrozenMatrix<T> down_;
};

// Whether adapters can be trained on this model: UNIMPLEMENTED names what the training code does
// not compute (norms of heads, biases behind attention, a sliding window, weights in blocks).
absl::Status trainable(const ModelConfig& config, const Checkpoint& checkpoint);

// What q·k is multiplied by.
double attention_scale(const ModelConfig& config);

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_FROZEN_LAYER_H_
