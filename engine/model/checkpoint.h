// The tensors of a checkpoint. Every tensor is verified against the table of names and shapes in
// layer_tensors.cc. Tensors are views into the read-only mapped files; nothing is copied or
// converted.
#ifndef KASCADE_ENGINE_MODEL_CHECKPOINT_H_
#define KASCADE_ENGINE_MODEL_CHECKPOINT_H_

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/tensor.h"
#include "engine/model/config.h"
#include "engine/model/layer_tensors.h"
#include "engine/model/safetensors.h"

namespace kascade {

struct Checkpoint {
  std::unique_ptr<Safetensors> files;  // null if the tensors lie in memory of the caller
  Tensor embedding;                    // [vocab, hidden]
  std::vector<LayerTensors> layers;
  Tensor norm;  // [1, hidden]
  Tensor head;  // [vocab, hidden]; the embedding itself when tied
  // Of all matrices (f32, bf16 or f16). If some matrices have blocks, it is the dtype of the first
  // of these, and each matrix has a dtype of its own.
  DType dtype = DType::kF32;
  // SHA-256 in hex over name, dtype, shape, first and last 64 KiB of each tensor, in order of name.
  // It does not depend on how the tensors are divided into files.
  std::string weights_digest{};

  // Releases the physical memory that holds a tensor of the files; it is read from disk again when
  // it is next used.
  void release(Tensor tensor) const;
};

// Maps the files in `directory` and verifies every tensor against `config`. Tensors that are
// missing, unexpected, of another shape or of a dtype other than f32, bf16 and f16 are refused
// (INVALID_ARGUMENT), naming the tensor and what was expected and found. All matrices must have one
// dtype, unless some of them have blocks; norms and biases may have another float dtype. A tied
// head may be stored under its own name, under that of the embedding, or under both if they are
// bitwise equal.
absl::StatusOr<Checkpoint> open_checkpoint(const std::filesystem::path& directory,
                                           const ModelConfig& config);

// Whether checkpoints may contain a tensor of this name that the model does not need
// (`rotary_emb.inv_freq`).
bool is_ignored_tensor(const std::string& name);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_CHECKPOINT_H_
