// Llama 1 to 3.x, and the many models that are trained from scratch in its shape.
#include "engine/model/families/model_family.h"

namespace kascade {

ModelFamily llama_family() {
  return {.model_type = "llama",
          .architecture = "LlamaForCausalLM",
          .read_features = [](const ConfigFields& fields, ModelConfig& config) {
            read_attention_bias(fields, config);
            refuse_sliding_window(fields, config, /*used_by_default=*/true);
          }};
}

}  // namespace kascade
