// The attention of a sparse adapter in one layer over a whole text, and the gradients of it
// (engine/adapter/options.h says what it computes).
#ifndef KASCADE_ENGINE_TRAINING_ADAPTER_ATTENTION_H_
#define KASCADE_ENGINE_TRAINING_ADAPTER_ATTENTION_H_

#include <array>
#include <cstdint>
#include <vector>

#include "engine/adapter/options.h"
#include "engine/adapter/parameters.h"
#include "engine/training/compressor.h"
#include "engine/training/rotation.h"
#include "engine/training/rows.h"

namespace kascade::training {

// What the frozen layer gives its attention for one text.
template <typename T>
struct AttentionRows {
  Rows<T> hidden{};   // [tokens, hidden], the layer's input after its norm
  Rows<T> queries{};  // [tokens, heads · head_dim], not rotated
  Rows<T> keys{};     // [tokens, kv_heads · head_dim], not rotated
  Rows<T> values{};   // [tokens, kv_heads · head_dim]
};

// What the forward pass leaves for the backward pass.
template <typename T>
struct AdapterActivations {
  Rows<T> queries{};                                   // rotated
  Rows<T> keys{};                                      // rotated
  std::vector<CompressedHead<T>> compressed_keys{};    // [kv_heads]
  std::vector<CompressedHead<T>> compressed_values{};  // [kv_heads]
  // [kv_heads] memory slots and compressed windows, one behind the other.
  std::vector<Rows<T>> coarse_keys{};
  std::vector<Rows<T>> coarse_values{};
  // [kv_heads · tokens] blocks that the row selected, ascending; the row of token t for KV head g
  // is g · tokens + t.
  std::vector<std::vector<int32_t>> selected{};
  std::array<Rows<T>, kBranches> branches{};  // [tokens, heads · head_dim] each
  Rows<T> gates{};                            // [tokens, 3 · heads], after the gate's function
  Rows<T> out{};                              // [tokens, heads · head_dim]
};

template <typename T>
class AdapterAttention {
 public:
  // `products` must outlive the object. q·k is multiplied by `scale`.
  AdapterAttention(const AdapterShape& shape, const AdapterOptions& options, double scale,
                   Products<T>& products);

  // `parameters` are those of the layer, layout() says where each one lies.
  AdapterActivations<T> forward(const T* parameters, const AttentionRows<T>& in,
                                const Rotation<T>& rotation) const;
  // Adds the gradients of the layer's parameters to `parameter_gradient` and those of the inputs to
  // `in_gradient`, given that of the output. Which blocks are selected has no gradient.
  void backward(const T* parameters, const AttentionRows<T>& in, const Rotation<T>& rotation,
                const AdapterActivations<T>& activations, const Rows<T>& out_gradient,
                T* parameter_gradient, AttentionRows<T>& in_gradient) const;

  // The weights of the branches for the layer's normed inputs: [tokens, 3 · heads].
  Rows<T> gates(const T* parameters, const Rows<T>& hidden) const;

  const AdapterShape& shape() const { return shape_; }
  const AdapterOptions& options() const { return options_; }
  const LayerParameters& layout() const { return layout_; }

 private:
  struct Gradients;

  // What a KV head's rows compute, for every token.
  void forward_head(int32_t kv_head, const AttentionRows<T>& in,
                    AdapterActivations<T>& activations) const;
  void backward_head(int32_t kv_head, const AttentionRows<T>& in,
                     const AdapterActivations<T>& activations, Gradients& gradients) const;
  // Memory slots and compressed windows, one behind the other: [slots + windows, head_dim].
  Rows<T> compressed_rows(const T* parameters, int32_t kind, int32_t kv_head,
                          const CompressedHead<T>& compressed) const;
  int64_t memory_offset(int32_t kind, int32_t kv_head) const;  // kind 0: keys, 1: values
  Gradients backward_gates(const T* parameters, const AttentionRows<T>& in,
                           const AdapterActivations<T>& activations, const Rows<T>& out_gradient,
                           T* parameter_gradient, AttentionRows<T>& in_gradient) const;
  // Takes the gradients of memory slots and compressed windows to the parameters and inputs.
  void backward_coarse(const T* parameters, int32_t kv_head,
                       const AdapterActivations<T>& activations, const Gradients& gradients,
                       T* parameter_gradient, AttentionRows<T>& in_gradient) const;
  CompressorPlan key_plan() const;
  CompressorPlan value_plan() const;

  AdapterShape shape_;
  AdapterOptions options_;
  LayerParameters layout_;
  T scale_;
  Products<T>& products_;
};

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_ADAPTER_ATTENTION_H_
