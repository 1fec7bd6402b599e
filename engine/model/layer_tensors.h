// The tensors of a layer, and how a Hugging Face folder stores them. Readers of other formats
// derive their tables from this one (tools/convert).
#ifndef KASCADE_ENGINE_MODEL_LAYER_TENSORS_H_
#define KASCADE_ENGINE_MODEL_LAYER_TENSORS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/backend/tensor.h"
#include "engine/model/config.h"

namespace kascade {

// Matrices are row-major [out_features, in_features] in the half-split rotary layout, as Hugging
// Face stores them. A tensor that the layer does not have is empty (`data` is null).
struct LayerTensors {
  Tensor attention_norm{};  // [1, hidden]
  Tensor q{};               // [heads · head_dim, hidden]
  Tensor k{};               // [kv_heads · head_dim, hidden]
  Tensor v{};               // [kv_heads · head_dim, hidden]
  Tensor q_bias{};          // [1, heads · head_dim]
  Tensor k_bias{};          // [1, kv_heads · head_dim]
  Tensor v_bias{};          // [1, kv_heads · head_dim]
  Tensor q_norm{};          // [1, head_dim]
  Tensor k_norm{};          // [1, head_dim]
  Tensor o{};               // [hidden, heads · head_dim]
  Tensor o_bias{};          // [1, hidden]
  Tensor ffn_norm{};        // [1, hidden]
  Tensor gate{};            // [intermediate, hidden]
  Tensor up{};              // [intermediate, hidden]
  Tensor down{};            // [hidden, intermediate]
};

// Consecutive rows of a stored tensor that are one of the layer's tensors.
struct StoredPart {
  Tensor LayerTensors::* field = nullptr;
  int32_t rows = 0;
};

// One tensor of a layer as it is stored.
struct StoredLayerTensor {
  std::string name{};               // after "model.layers.<layer>.": "self_attn.q_proj.weight"
  std::vector<int64_t> shape{};     // [rows, cols], or [size] for a vector
  std::vector<StoredPart> parts{};  // in the order of rows; of a vector one part of one row

  bool is_vector() const { return shape.size() == 1; }
};

// All tensors that a layer of this model has. Every layer has the same.
std::vector<StoredLayerTensor> stored_layer_tensors(const ModelConfig& config);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_LAYER_TENSORS_H_
