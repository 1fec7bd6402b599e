// Mistral: a Llama, in the first versions with a sliding window.
#include "engine/model/families/model_family.h"

namespace kascade {

ModelFamily mistral_family() {
  return {.model_type = "mistral",
          .architecture = "MistralForCausalLM",
          .required_keys = {"num_key_value_heads", "sliding_window"},
          .read_features = [](const ConfigFields& fields, ModelConfig& config) {
            refuse_attention_bias(fields);
            read_sliding_window(fields, config);
          }};
}

}  // namespace kascade
