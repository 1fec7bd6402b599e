// The frozen model with an adapter in every layer, over one text: the dense model (the teacher),
// the model with adapters (the student), and the gradients of losses with respect to the adapters.
#ifndef KASCADE_ENGINE_TRAINING_STUDENT_H_
#define KASCADE_ENGINE_TRAINING_STUDENT_H_

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/adapter/options.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/training/adapted_layer.h"
#include "engine/training/adapter_attention.h"
#include "engine/training/frozen_layer.h"
#include "engine/training/losses.h"
#include "engine/training/rows.h"

namespace kascade::training {

// The residual stream of a text in front of layer 0, 1, … and behind the last: [layers + 1] of
// [tokens, hidden].
template <typename T>
using Stream = std::vector<Rows<T>>;

struct TextLoss {
  double loss = 0;  // the weighted sum of the others
  double hidden = 0;
  double divergence = 0;
  double cross_entropy = 0;
};

template <typename T>
class Student {
 public:
  // The model must be one that trainable() accepts, the options must be valid. `checkpoint` and
  // `products` must outlive the object.
  Student(const ModelConfig& config, const Checkpoint& checkpoint, const AdapterOptions& options,
          Products<T>& products);
  Student(const Student&) = delete;
  Student& operator=(const Student&) = delete;

  // Parameters of all layers are one array; those of layer i begin at i · layer_size().
  int64_t layer_size() const { return attention_.layout().size; }
  int64_t size() const { return layer_size() * config_.layers; }
  const LayerParameters& layout() const { return attention_.layout(); }
  // Parameters before training: networks are random, matrices of the adapter's own are those of the
  // frozen model, gates are as the options say, all else is zero (norms one).
  std::vector<T> initial_parameters(uint64_t seed) const;

  Stream<T> dense_stream(std::span<const int32_t> tokens) const;
  Stream<T> adapted_stream(std::span<const int32_t> tokens, const T* parameters) const;

  // Of one layer alone, for the input x: the mean squared difference between what the adapter's and
  // what dense attention add to the residual stream, ÷ the mean square of the latter. Adds the
  // gradient of the layer's parameters to `gradient`, unless it is null.
  double layer_loss(int32_t layer, const Rows<T>& x, const T* layer_parameters, T* gradient) const;

  // Of the whole model, given the teacher's stream. targets[t] is the token that row t should
  // predict, or kNoTarget. Adds the gradient to `gradient`, unless it is null; each layer is then
  // computed again on the way back, so that memory holds the activations of one layer.
  TextLoss text_loss(std::span<const int32_t> tokens, const Stream<T>& teacher,
                     std::span<const int32_t> targets, const LossSettings& settings,
                     const T* parameters, T* gradient) const;

  // The mean of −log p of the targets by the model whose stream this is [nats].
  double cross_entropy(const Stream<T>& stream, std::span<const int32_t> targets) const;

  // The mean weight that each branch has over all rows, heads and layers.
  std::array<double, kBranches> branch_weights(const Stream<T>& stream, const T* parameters) const;

 private:
  Rows<T> embed(std::span<const int32_t> tokens) const;
  Rows<T> dense_output(int32_t layer, const Rows<T>& x, const Rotation<T>& rotation) const;
  Rotation<T> rotation_for(int64_t tokens) const;
  AdaptedLayer<T> adapted(int32_t layer) const {
    return AdaptedLayer<T>(layers_[layer], attention_, products_);
  }
  double hidden_loss(const Stream<T>& student, const Stream<T>& teacher,
                     const LossSettings& settings, Stream<T>* gradients) const;
  LogitLosses head_loss(const Rows<T>& student, const Rows<T>& teacher,
                        std::span<const int32_t> targets, const LossSettings& settings,
                        Rows<T>* gradient) const;

  ModelConfig config_;
  Products<T>& products_;
  std::vector<double> frequencies_;
  Rows<T> embedding_;
  std::vector<FrozenLayer<T>> layers_;
  Rows<T> norm_;  // [1, hidden]
  FrozenMatrix<T> head_;
  AdapterAttention<T> attention_;
};

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_STUDENT_H_
