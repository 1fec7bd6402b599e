// A layer of the frozen model whose attention is an adapter's, forwards and backwards.
#ifndef KASCADE_ENGINE_TRAINING_ADAPTED_LAYER_H_
#define KASCADE_ENGINE_TRAINING_ADAPTED_LAYER_H_

#include <cstdint>

#include "engine/adapter/options.h"
#include "engine/training/adapter_attention.h"
#include "engine/training/frozen_layer.h"
#include "engine/training/rotation.h"
#include "engine/training/rows.h"

namespace kascade::training {

template <typename T>
class AdaptedLayer {
 public:
  // All of them must outlive the object.
  AdaptedLayer(const FrozenLayer<T>& frozen, const AdapterAttention<T>& attention,
               Products<T>& products)
      : frozen_(&frozen), attention_(&attention), products_(&products) {}

  // The attention of one forward pass.
  struct Attention {
    AttentionRows<T> in;
    AdapterActivations<T> activations;
    Rows<T> output;  // [tokens, hidden], what the attention adds to the residual stream
  };
  Attention attend(const Rows<T>& x, const T* parameters, const Rotation<T>& rotation) const;
  // Adds to the gradients of the parameters, given that of `output`. Returns the gradients of
  // queries, keys, values and hidden rows; frozen projections are not yet passed.
  AttentionRows<T> attend_backward(const Attention& attention, const T* parameters,
                                   const Rotation<T>& rotation, const Rows<T>& output_gradient,
                                   T* parameter_gradient) const;

  // The residual stream after the layer.
  Rows<T> forward(const Rows<T>& x, const T* parameters, const Rotation<T>& rotation) const;
  // Computes the layer again, adds to the gradients of the parameters, and returns the gradient of
  // x, given that of the residual stream after the layer.
  Rows<T> backward(const Rows<T>& x, const T* parameters, const Rotation<T>& rotation,
                   const Rows<T>& gradient, T* parameter_gradient) const;

 private:
  AttentionRows<T> project(const Rows<T>& x, const T* parameters) const;
  Rows<T> own_weight(const AdapterTensor& tensor, const T* parameters) const {
    return rows_of(parameters + tensor.offset, tensor.shape[0], tensor.shape[1]);
  }
  // Adds gradientᵀ · rows to the gradient of a matrix of the adapter's own.
  void add_weight_gradient(const AdapterTensor& tensor, const Rows<T>& gradient,
                           const Rows<T>& rows, T* parameter_gradient) const;

  const FrozenLayer<T>* frozen_;
  const AdapterAttention<T>* attention_;
  Products<T>* products_;
};

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_ADAPTED_LAYER_H_
