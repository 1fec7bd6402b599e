// The tensors of a Llama checkpoint by field: the table name → field → shape is in checkpoint.cc
// and every entry of it is verified. Views into the mapped files, which are read-only; nothing is
// copied or converted.
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
#include "engine/model/safetensors.h"

namespace kascade {

// Row-major [out_features, in_features], as Hugging Face stores them (half-split rotary layout).
struct LayerTensors {
  Tensor attention_norm;  // [1, hidden]
  Tensor q;               // [heads · head_dim, hidden]
  Tensor k;               // [kv_heads · head_dim, hidden]
  Tensor v;               // [kv_heads · head_dim, hidden]
  Tensor o;               // [hidden, heads · head_dim]
  Tensor ffn_norm;        // [1, hidden]
  Tensor gate;            // [intermediate, hidden]
  Tensor up;              // [intermediate, hidden]
  Tensor down;            // [hidden, intermediate]
};

struct Checkpoint {
  std::unique_ptr<Safetensors> files;  // null if the tensors lie in memory of their maker
  Tensor embedding;                    // [vocab, hidden]
  std::vector<LayerTensors> layers;
  Tensor norm;                // [1, hidden]
  Tensor head;                // [vocab, hidden]; the embedding itself when tied
  DType dtype = DType::kF32;  // of the matrices (f32, bf16, f16); mixed files are refused
  // SHA-256 hex over the tensors in order of name: name, dtype, shape, first and last 64 KiB. Does
  // not depend on how they are spread over files.
  std::string weights_digest{};

  // Gives back the memory that holds a tensor of the files until it is read again.
  void release(Tensor tensor) const;
};

// Maps DIR and verifies every tensor against `config`. Missing, extra, mis-shaped tensors and other
// dtypes are refused (INVALID_ARGUMENT) with tensor, expected and found. Tied heads: the one table
// may be stored under either name, or under both if bitwise equal. Norms may have another float
// dtype than the matrices. `rotary_emb.inv_freq` is ignored.
absl::StatusOr<Checkpoint> open_checkpoint(const std::filesystem::path& directory,
                                           const ModelConfig& config);

// What files carry along and no model needs.
bool is_ignored_tensor(const std::string& name);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_CHECKPOINT_H_
