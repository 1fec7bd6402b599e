#include "tools/convert/config_json.h"

#include <variant>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/model/families/model_family.h"
#include "engine/model/json.h"
#include "nlohmann/json.hpp"

namespace kascade::convert {
namespace {

using Json = nlohmann::ordered_json;

std::string torch_name(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    default:
      return "float32";
  }
}

// Parses the text and keeps the order of its fields. The reader in engine/model has already checked
// its size, nesting and repeated fields.
absl::StatusOr<Json> parse_ordered(const std::string& text) {
  if (const auto checked = parse_json_object(text, "config.json"); !checked.ok()) {
    return checked.status();
  }
  return Json::parse(text);
}

Json rope_json(const LinearRopeScaling& scaling) {
  return {{"rope_type", "linear"}, {"factor", scaling.factor}};
}

Json rope_json(const Llama3RopeScaling& scaling) {
  return {{"rope_type", "llama3"},
          {"factor", scaling.factor},
          {"low_freq_factor", scaling.low_freq_factor},
          {"high_freq_factor", scaling.high_freq_factor},
          {"original_max_position_embeddings", scaling.original_context}};
}

Json rope_json(const YarnRopeScaling& scaling) {
  return {{"rope_type", "yarn"},
          {"factor", scaling.factor},
          {"original_max_position_embeddings", scaling.original_context},
          {"beta_fast", scaling.beta_fast},
          {"beta_slow", scaling.beta_slow},
          {"truncate", scaling.truncate},
          {"attention_factor", scaling.magnitude}};
}

// The keys that only some families have.
void add_features(const ModelConfig& config, Json& json) {
  json["attention_bias"] = config.attention_out_bias;
  if (config.model_type == "mistral" || config.model_type == "phi3") {
    json["sliding_window"] = nullptr;
    if (config.sliding_window) json["sliding_window"] = *config.sliding_window;
  }
  if (config.attention_multiplier) {
    json["embedding_multiplier"] = config.embedding_multiplier;
    json["attention_multiplier"] = *config.attention_multiplier;
    json["residual_multiplier"] = config.residual_multiplier;
    json["logits_scaling"] = config.logits_divisor;
  }
}

}  // namespace

std::string to_config_json(const ModelConfig& config, DType dtype) {
  const ModelFamily* family = find_model_family(config.model_type);
  KASCADE_CHECK(family != nullptr);
  Json json = {{"architectures", {family->architecture}},
               {"model_type", config.model_type},
               {"hidden_size", config.hidden},
               {"intermediate_size", config.intermediate},
               {"num_hidden_layers", config.layers},
               {"num_attention_heads", config.heads},
               {"num_key_value_heads", config.kv_heads},
               {"head_dim", config.head_dim},
               {"vocab_size", config.vocab},
               {"max_position_embeddings", config.context},
               {"rms_norm_eps", config.norm_eps},
               {"rope_theta", config.rope_theta},
               {"hidden_act", "silu"},
               {"mlp_bias", false},
               {"tie_word_embeddings", config.tied_head},
               {"torch_dtype", torch_name(dtype)}};
  add_features(config, json);
  if (config.rope_scaling) {
    json["rope_scaling"] =
        std::visit([](const auto& scaling) { return rope_json(scaling); }, *config.rope_scaling);
  }
  if (config.bos_token) json["bos_token_id"] = *config.bos_token;
  if (config.eos_tokens.size() == 1) json["eos_token_id"] = config.eos_tokens[0];
  if (config.eos_tokens.size() > 1) json["eos_token_id"] = config.eos_tokens;
  return json.dump(2) + "\n";
}

absl::StatusOr<std::string> with_dtype(const std::string& config_json, DType dtype) {
  auto json = parse_ordered(config_json);
  if (!json.ok()) return json.status();
  (*json)[json->contains("dtype") ? "dtype" : "torch_dtype"] = torch_name(dtype);
  return json->dump(2) + "\n";
}

absl::StatusOr<std::string> with_rope_factor(const std::string& config_json, double factor) {
  auto json = parse_ordered(config_json);
  if (!json.ok()) return json.status();
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto rope = json->find(key);
    if (rope == json->end() || !rope->is_object() || !rope->contains("factor")) continue;
    (*rope)["factor"] = factor;
    return json->dump(2) + "\n";
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--rope-factor ", factor, ": config.json has no rope_scaling with a factor to replace"));
}

}  // namespace kascade::convert
