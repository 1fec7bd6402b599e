// Qwen3 without experts: a Llama that normalises each head of queries and keys before rotation.
#include "engine/model/families/model_family.h"

namespace kascade {

ModelFamily qwen3_family() {
  return {.model_type = "qwen3",
          .architecture = "Qwen3ForCausalLM",
          .required_keys = {"num_key_value_heads", "head_dim"},
          .read_features = [](const ConfigFields& fields, ModelConfig& config) {
            config.head_norms = true;
            read_attention_bias(fields, config);
            refuse_sliding_window(fields, config, /*used_by_default=*/false);
          }};
}

}  // namespace kascade
