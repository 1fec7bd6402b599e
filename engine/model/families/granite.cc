// Granite without experts: a Llama with four multipliers.
#include "engine/model/families/model_family.h"

namespace kascade {
namespace {

constexpr double kLeast = 1e-6;
constexpr double kMost = 1e6;

}  // namespace

ModelFamily granite_family() {
  return {.model_type = "granite",
          .architecture = "GraniteForCausalLM",
          .read_features = [](const ConfigFields& fields, ModelConfig& config) {
            const auto multiplier = [&](const char* key) {
              return fields.maybe_number(key, kLeast, kMost).value_or(1);
            };
            config.embedding_multiplier = multiplier("embedding_multiplier");
            config.attention_multiplier = multiplier("attention_multiplier");
            config.residual_multiplier = multiplier("residual_multiplier");
            config.logits_divisor = multiplier("logits_scaling");
            refuse_attention_bias(fields);
            refuse_sliding_window(fields, config, /*used_by_default=*/true);
          }};
}

}  // namespace kascade
