// How llama.cpp stores the model families that the engine computes.
#ifndef KASCADE_TOOLS_CONVERT_GGUF_ARCHITECTURE_H_
#define KASCADE_TOOLS_CONVERT_GGUF_ARCHITECTURE_H_

#include <string>
#include <string_view>

#include "engine/model/config.h"
#include "tools/convert/gguf_fields.h"

namespace kascade::convert {

struct GgufArchitecture {
  // general.architecture, which is also the model_type of config.json, except that Mistral is
  // stored as "llama".
  std::string_view name{};
  // Whether the rows of the projections of queries and keys are in the neighbouring rotary layout
  // (rope_layout.h) and not in Hugging Face's.
  bool is_neighbouring = false;
  bool has_head_norms = false;
  bool has_fused_projections = false;
  bool has_multipliers = false;
  bool may_have_window = false;
};

// Null if the engine does not compute it.
const GgufArchitecture* find_gguf_architecture(std::string_view name);
// Returns the names for messages: "\"granite\", \"llama\" … or \"qwen3\"".
std::string gguf_architecture_list();

// Sets the model type and what the layers have besides those of a plain Llama, from the metadata
// and the names of the tensors. The sizes of `config` must be set. Settings of other architectures
// that would change the result become an error of `fields`.
void read_gguf_features(const GgufFile& file, const GgufArchitecture& architecture,
                        GgufFields& fields, ModelConfig& config);

// Sets the linear or YaRN scaling that the metadata states; other types become an error.
void read_gguf_rope_scaling(GgufFields& fields, ModelConfig& config);

// Returns the name in the file of a layer's tensor: "attn_q.weight" for
// "self_attn.q_proj.weight".
std::string gguf_layer_tensor(std::string_view stored_name);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_GGUF_ARCHITECTURE_H_
