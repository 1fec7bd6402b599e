// Qwen2 and Qwen2.5: a Llama with biases after the projections of queries, keys and values, whether
// or not config.json says so.
#include "engine/model/families/model_family.h"

namespace kascade {

ModelFamily qwen2_family() {
  return {.model_type = "qwen2",
          .architecture = "Qwen2ForCausalLM",
          .required_keys = {"num_key_value_heads"},
          .read_features = [](const ConfigFields& fields, ModelConfig& config) {
            config.qkv_bias = true;
            refuse_sliding_window(fields, config, /*used_by_default=*/false);
          }};
}

}  // namespace kascade
