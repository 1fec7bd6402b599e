// The weight matrices of a model that a backend packs: their names and shapes, and the tensors of
// the checkpoint that they consist of.
#ifndef KASCADE_ENGINE_MODEL_MATRICES_H_
#define KASCADE_ENGINE_MODEL_MATRICES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/tensor.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"

namespace kascade {

// Columns of one tile of the output head: enough for an efficient product, few enough that a tile
// of logits stays in cache.
constexpr int32_t kHeadTile = 4096;

// Name and shape of one packed matrix.
struct MatrixSpec {
  std::string name{};  // "layers.0.qkv", …, "head.0", …
  int64_t out_features = 0;
  int64_t in_features = 0;
  MatrixUse use = MatrixUse::kLayer;
};

// The matrices in the order in which a Transformer packs them.
std::vector<MatrixSpec> matrix_specs(const ModelConfig& config);

// For each matrix of matrix_specs(), the tensors whose rows, one tensor after another, are its rows
// (for qkv: q, k and v). They are views into the checkpoint.
std::vector<std::vector<Tensor>> matrix_parts(const Checkpoint& checkpoint);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_MATRICES_H_
