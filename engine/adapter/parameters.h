// The trained parameters of a sparse adapter: which tensors a layer has, and where each one lies in
// the layer's parameters, which are one array. Every layer has the same tensors.
#ifndef KASCADE_ENGINE_ADAPTER_PARAMETERS_H_
#define KASCADE_ENGINE_ADAPTER_PARAMETERS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/adapter/options.h"
#include "engine/model/config.h"

namespace kascade {

// The dimensions of the frozen model that an adapter depends on.
struct AdapterShape {
  int32_t layers = 0;
  int32_t hidden = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;

  int32_t group() const { return heads / kv_heads; }  // query heads per KV head
  int32_t q_dim() const { return heads * head_dim; }
  int32_t kv_dim() const { return kv_heads * head_dim; }
  bool operator==(const AdapterShape&) const = default;
};
AdapterShape adapter_shape(const ModelConfig& config);

// A tensor of a layer, row-major.
struct AdapterTensor {
  std::string name{};            // after "layers.<layer>.": "gate.weight"
  std::vector<int64_t> shape{};  // empty if the layer does not have it
  int64_t offset = 0;            // of the first element in the layer's parameters
  bool decays = false;           // whether weight decay applies to it (matrices)

  bool present() const { return !shape.empty(); }
  int64_t size() const;  // elements
};

// Of one compressor. `networks` is 1 if the KV heads share a network, else kv_heads.
struct CompressorTensors {
  // [kv_heads, compress_block, head_dim], or [1, …] if they are shared: what is added to a key or
  // value at each place of a window.
  AdapterTensor positions{};
  AdapterTensor hidden_weight{};  // [networks, units, compress_block · head_dim]
  AdapterTensor hidden_bias{};    // [networks, units]
  AdapterTensor out_weight{};     // [networks, head_dim, units]
  AdapterTensor out_bias{};       // [networks, head_dim]
  AdapterTensor norm{};           // [head_dim]

  int32_t units() const { return static_cast<int32_t>(hidden_weight.shape[1]); }
};

struct LayerParameters {
  CompressorTensors keys{};
  CompressorTensors values{};
  AdapterTensor memory{};       // [2, kv_heads, memory_slots, head_dim]: keys, then values
  AdapterTensor gate_weight{};  // [3 · heads, hidden]; of each head in the order of Branch
  AdapterTensor gate_bias{};    // [3 · heads]
  AdapterTensor output{};       // [hidden, heads · head_dim]
  AdapterTensor
      projections{};  // [(heads + 2 · kv_heads) · head_dim, hidden]: queries, keys, values
  int64_t size = 0;   // elements of all tensors

  // The tensors that the layer has, in the order in which they lie.
  std::vector<const AdapterTensor*> present() const;
};

// The options must be valid.
LayerParameters layer_parameters(const AdapterShape& shape, const AdapterOptions& options);

}  // namespace kascade

#endif  // KASCADE_ENGINE_ADAPTER_PARAMETERS_H_
