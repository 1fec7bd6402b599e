#include "engine/adapter/parameters.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kascade {
namespace {

// Gives tensors their places, one behind the other.
class Placement {
 public:
  AdapterTensor place(std::string name, std::vector<int64_t> shape) {
    AdapterTensor tensor{std::move(name), std::move(shape), size_, false};
    tensor.decays = tensor.name.ends_with("weight");
    size_ += tensor.size();
    return tensor;
  }
  int64_t size() const { return size_; }

 private:
  int64_t size_ = 0;
};

CompressorTensors place_compressor(const std::string& name, Compressor compressor,
                                   const AdapterShape& shape, const AdapterOptions& options,
                                   Placement& placement) {
  const bool mlp = compressor == Compressor::kMlp;
  const int64_t networks = mlp && options.shared_mlp ? 1 : shape.kv_heads;
  const int64_t position_sets = mlp && options.shared_positions ? 1 : shape.kv_heads;
  const int64_t inputs = int64_t{options.compress_block} * shape.head_dim;
  const int64_t units = std::max<int64_t>(
      static_cast<int64_t>(static_cast<double>(inputs) * options.mlp_expansion), shape.head_dim);
  const auto place = [&](const std::string& part, std::vector<int64_t> dimensions) {
    return placement.place(absl::StrCat(name, ".", part), std::move(dimensions));
  };

  CompressorTensors tensors;
  tensors.positions = place("positions", {position_sets, options.compress_block, shape.head_dim});
  if (mlp) {
    tensors.hidden_weight = place("hidden.weight", {networks, units, inputs});
    if (options.mlp_bias) tensors.hidden_bias = place("hidden.bias", {networks, units});
    tensors.out_weight = place("out.weight", {networks, shape.head_dim, units});
    if (options.mlp_bias) tensors.out_bias = place("out.bias", {networks, shape.head_dim});
  }
  if (options.compressor_norm) tensors.norm = place("norm", {shape.head_dim});
  return tensors;
}

}  // namespace

AdapterShape adapter_shape(const ModelConfig& config) {
  return {config.layers, config.hidden, config.heads, config.kv_heads, config.head_dim};
}

int64_t AdapterTensor::size() const {
  if (shape.empty()) return 0;
  int64_t size = 1;
  for (const int64_t dimension : shape) size *= dimension;
  return size;
}

std::vector<const AdapterTensor*> LayerParameters::present() const {
  std::vector<const AdapterTensor*> tensors;
  const auto add = [&](std::initializer_list<const AdapterTensor*> candidates) {
    for (const AdapterTensor* tensor : candidates) {
      if (tensor->present()) tensors.push_back(tensor);
    }
  };
  for (const CompressorTensors* compressor : {&keys, &values}) {
    add({&compressor->positions, &compressor->hidden_weight, &compressor->hidden_bias,
         &compressor->out_weight, &compressor->out_bias, &compressor->norm});
  }
  add({&memory, &gate_weight, &gate_bias, &output, &projections});
  return tensors;
}

LayerParameters layer_parameters(const AdapterShape& shape, const AdapterOptions& options) {
  Placement placement;
  LayerParameters layer;
  layer.keys = place_compressor("keys", options.key_compressor, shape, options, placement);
  layer.values = place_compressor("values", options.value_compressor, shape, options, placement);
  if (options.memory_slots > 0) {
    layer.memory =
        placement.place("memory", {2, shape.kv_heads, options.memory_slots, shape.head_dim});
  }
  const int64_t gates = int64_t{kBranches} * shape.heads;
  layer.gate_weight = placement.place("gate.weight", {gates, shape.hidden});
  layer.gate_bias = placement.place("gate.bias", {gates});
  if (options.own_output) {
    layer.output = placement.place("output.weight", {shape.hidden, shape.q_dim()});
  }
  if (options.own_projections) {
    layer.projections =
        placement.place("projections.weight", {shape.q_dim() + 2 * shape.kv_dim(), shape.hidden});
  }
  layer.size = placement.size();
  return layer;
}

}  // namespace kascade
