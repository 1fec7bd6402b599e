// Lists the tensors of a model with a given configuration, by their names in Hugging Face's and, of
// a Llama, in Meta's format.
#ifndef KASCADE_TOOLS_CONVERT_MODEL_TENSORS_H_
#define KASCADE_TOOLS_CONVERT_MODEL_TENSORS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/config.h"

namespace kascade::convert {

inline constexpr char kEmbeddingName[] = "model.embed_tokens.weight";
inline constexpr char kHeadName[] = "lm_head.weight";

// How a tensor is split among the files of a model-parallel checkpoint.
enum class Division : uint8_t {
  kCopies,  // each file has the whole tensor
  kRows,
  kColumns,
  kVocabulary,  // the embedding: split by columns up to Llama 2, by rows since Llama 3
};

struct ModelTensor {
  std::string name{};            // "model.layers.0.self_attn.q_proj.weight"
  std::string meta_name{};       // "layers.0.attention.wq.weight"; empty if Meta has no such tensor
  std::vector<int64_t> shape{};  // [hidden] or [rows, columns]
  Division division = Division::kCopies;
  // the projections of queries and keys, whose rows Meta stores in another order (rope_layout.h)
  bool is_rotated = false;
};

// Returns the embedding, the layers in order, the last norm and the head. The head is listed even
// if it is tied.
std::vector<ModelTensor> model_tensors(const ModelConfig& config);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_MODEL_TENSORS_H_
