// The model families that the engine computes. A family is a row: how config.json names it, and
// what its layers have besides those of a plain Llama. Nothing but the readers of configurations
// asks for the family; the transformer asks the ModelConfig what a layer has.
#ifndef KASCADE_ENGINE_MODEL_FAMILIES_MODEL_FAMILY_H_
#define KASCADE_ENGINE_MODEL_FAMILIES_MODEL_FAMILY_H_

#include <string>
#include <string_view>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/config_fields.h"

namespace kascade {

struct ModelFamily {
  std::string model_type{};    // "mistral"
  std::string architecture{};  // "MistralForCausalLM"
  // Keys that config.json must have, though perhaps as null: without them Hugging Face takes the
  // number of one published model of the family.
  std::vector<std::string> required_keys{};
  // Reads the keys that this family has and others do not, and sets what the layers have. What is
  // not computed as the family does it becomes an error. Sizes and rope of the configuration were
  // read before.
  void (*read_features)(const ConfigFields& fields, ModelConfig& config) = nullptr;
};

// All families, in order of model_type.
const std::vector<ModelFamily>& model_families();
// Null if there is none.
const ModelFamily* find_model_family(std::string_view model_type);
// Returns "“granite”, “llama”, …" for messages, with straight quotes.
std::string model_type_list();

// The rows, each in a file of its own.
ModelFamily granite_family();
ModelFamily llama_family();
ModelFamily mistral_family();
ModelFamily phi3_family();
ModelFamily qwen2_family();
ModelFamily qwen3_family();

// Parts that several families share.

// Reads `attention_bias`: biases of the projections of q, k, v and of the output.
void read_attention_bias(const ConfigFields& fields, ModelConfig& config);
// Refuses `attention_bias` true.
void refuse_attention_bias(const ConfigFields& fields);
// Reads `sliding_window`, a number of keys or null.
void read_sliding_window(const ConfigFields& fields, ModelConfig& config);
// Refuses a window, unless it is switched off or covers the context. `used_by_default`: what an
// absent `use_sliding_window` means.
void refuse_sliding_window(const ConfigFields& fields, const ModelConfig& config,
                           bool used_by_default);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_FAMILIES_MODEL_FAMILY_H_
