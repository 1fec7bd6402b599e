// Phi-3 with a context of 4,096 tokens, and models of its shape: a Llama whose files join the
// projections of q, k and v, and those of gate and up, and that has a sliding window.
#include "engine/model/families/model_family.h"

namespace kascade {

ModelFamily phi3_family() {
  return {.model_type = "phi3",
          .architecture = "Phi3ForCausalLM",
          .read_features = [](const ConfigFields& fields, ModelConfig& config) {
            config.fused_projections = true;
            refuse_attention_bias(fields);
            read_sliding_window(fields, config);
          }};
}

}  // namespace kascade
