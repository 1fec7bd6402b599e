// The tensors that a Llama of a given configuration has, by the names of Hugging Face and of Meta.
#ifndef KASCADE_TOOLS_CONVERT_LLAMA_TENSORS_H_
#define KASCADE_TOOLS_CONVERT_LLAMA_TENSORS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/config.h"

namespace kascade::convert {

inline constexpr char kEmbeddingName[] = "model.embed_tokens.weight";
inline constexpr char kHeadName[] = "lm_head.weight";

// How a tensor is divided among the files of a model-parallel checkpoint.
enum class Division : uint8_t {
  kCopies,  // each file has all of it
  kRows,
  kColumns,
  kVocabulary,  // the embedding: columns up to Llama 2, rows since Llama 3
};

struct LlamaTensor {
  std::string name{};            // "model.layers.0.self_attn.q_proj.weight"
  std::string meta_name{};       // "layers.0.attention.wq.weight"
  std::vector<int64_t> shape{};  // [hidden] or [rows, columns]
  Division division = Division::kCopies;
  bool is_rotated = false;  // queries and keys, whose rows Meta orders otherwise (rope_layout.h)
};

// Embedding, layers in order, last norm, head (whether or not it is tied).
std::vector<LlamaTensor> llama_tensors(const ModelConfig& config);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_LLAMA_TENSORS_H_
