#include "engine/model/matrices.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace kascade {

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

std::vector<std::vector<Tensor>> matrix_parts(const Checkpoint& checkpoint) {
  std::vector<std::vector<Tensor>> parts;
  for (const LayerTensors& layer : checkpoint.layers) {
    parts.push_back({layer.q, layer.k, layer.v});
    parts.push_back({layer.o});
    parts.push_back({layer.gate, layer.up});
    parts.push_back({layer.down});
  }
  const Tensor head = checkpoint.head;
  for (int64_t first = 0; first < head.rows; first += kHeadTile) {
    parts.push_back({head.slice_rows(first, std::min<int64_t>(kHeadTile, head.rows - first))});
  }
  return parts;
}

}  // namespace kascade
