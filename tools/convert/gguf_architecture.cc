#include "tools/convert/gguf_architecture.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/model/json.h"

namespace kascade::convert {
namespace {

constexpr std::array<GgufArchitecture, 5> kArchitectures = {{
    {.name = "granite", .is_neighbouring = true, .has_multipliers = true},
    {.name = "llama", .is_neighbouring = true, .may_have_window = true},
    {.name = "phi3", .has_fused_projections = true, .may_have_window = true},
    {.name = "qwen2"},
    {.name = "qwen3", .has_head_norms = true},
}};

bool has_tensor(const GgufFile& file, std::string_view name) {
  return std::any_of(file.tensors().begin(), file.tensors().end(),
                     [&](const GgufTensor& tensor) { return tensor.name == name; });
}

double multiplier(GgufFields& fields, const char* name) {
  const std::string key = fields.key_of(name);
  if (!fields.has(key)) fields.missing(key);
  return fields.maybe_number(key, 1e-6, 1e6).value_or(1);
}

void read_multipliers(const GgufArchitecture& architecture, GgufFields& fields,
                      ModelConfig& config) {
  if (architecture.has_multipliers) {
    config.embedding_multiplier = multiplier(fields, "embedding_scale");
    config.attention_multiplier = multiplier(fields, "attention.scale");
    config.residual_multiplier = multiplier(fields, "residual_scale");
    config.logits_divisor = multiplier(fields, "logit_scale");
    return;
  }
  for (const char* name : {"attention.scale", "logit_scale", "embedding_scale", "residual_scale"}) {
    const std::string key = fields.key_of(name);
    if (fields.has(key)) fields.unsupported(key, "its absence", "it");
  }
}

void read_window(const GgufArchitecture& architecture, GgufFields& fields, ModelConfig& config) {
  const std::string key = fields.key_of("attention.sliding_window");
  const int64_t window = fields.maybe_integer(key).value_or(0);
  if (window == 0) return;
  if (!architecture.may_have_window) return fields.unsupported(key, "0", absl::StrCat(window));
  if (window < 0) return fields.invalid(key, "a number of keys", absl::StrCat(window));
  if (config.model_type == "llama") config.model_type = "mistral";
  // A window that is never shorter than the text leaves nothing out.
  if (window < config.context) config.sliding_window = static_cast<int32_t>(window);
}

// Refuses what llama.cpp can add to YaRN and Hugging Face cannot say.
void refuse_yarn_variants(GgufFields& fields) {
  for (const char* name : {"attn_factor", "yarn_attn_factor", "yarn_ext_factor"}) {
    const std::string key = fields.key_of(absl::StrCat("rope.scaling.", name));
    const double value = fields.maybe_number(key, -1e6, 1e6).value_or(1);
    if (value != 1) fields.unsupported(key, "1", absl::StrCat(value));
  }
  const std::string key = fields.key_of("rope.scaling.yarn_log_multiplier");
  if (fields.has(key)) fields.unsupported(key, "its absence", "it");
}

RopeScaling read_yarn(GgufFields& fields, double factor, int32_t context) {
  refuse_yarn_variants(fields);
  YarnRopeScaling yarn{.factor = factor, .original_context = context};
  const std::string key = fields.key_of("rope.scaling.original_context_length");
  const int64_t original = fields.maybe_integer(key).value_or(context);
  if (original < 1 || original > kMaxContext) {
    fields.invalid(key, absl::StrCat("1..", kMaxContext), absl::StrCat(original));
  } else {
    yarn.original_context = static_cast<int32_t>(original);
  }
  const auto beta = [&](const char* name, double fallback) {
    return fields.maybe_number(fields.key_of(name), 1e-6, 1e6).value_or(fallback);
  };
  yarn.beta_fast = beta("rope.scaling.yarn_beta_fast", 32);
  yarn.beta_slow = beta("rope.scaling.yarn_beta_slow", 1);
  yarn.magnitude = yarn_magnitude(factor);
  return yarn;
}

}  // namespace

const GgufArchitecture* find_gguf_architecture(std::string_view name) {
  const auto* found = std::find_if(kArchitectures.begin(), kArchitectures.end(),
                                   [&](const auto& known) { return known.name == name; });
  return found == kArchitectures.end() ? nullptr : found;
}

std::string gguf_architecture_list() {
  std::string list;
  for (size_t i = 0; i < kArchitectures.size(); ++i) {
    const char* separator = i == 0 ? "" : i + 1 == kArchitectures.size() ? " or " : ", ";
    absl::StrAppend(&list, separator, "\"", std::string(kArchitectures[i].name), "\"");
  }
  return list;
}

void read_gguf_features(const GgufFile& file, const GgufArchitecture& architecture,
                        GgufFields& fields, ModelConfig& config) {
  config.model_type = architecture.name;
  config.head_norms = architecture.has_head_norms;
  config.fused_projections = architecture.has_fused_projections;
  if (config.model_type == "qwen2") {
    config.qkv_bias = true;
  } else if (config.model_type == "llama" || config.model_type == "qwen3") {
    config.qkv_bias = config.attention_out_bias = has_tensor(file, "blk.0.attn_q.bias");
  }
  read_multipliers(architecture, fields, config);
  read_window(architecture, fields, config);
}

void read_gguf_rope_scaling(GgufFields& fields, ModelConfig& config) {
  const std::string type_key = fields.key_of("rope.scaling.type");
  const std::string factor_key = fields.key_of("rope.scaling.factor");
  // If a factor is given without a type, llama.cpp applies linear scaling; 0 means none.
  const std::string type = fields.maybe_text(type_key).value_or("linear");
  const double factor = fields.maybe_number(factor_key, 0, 1e6).value_or(0);
  if (type != "none" && type != "linear" && type != "yarn") {
    return fields.unsupported(type_key, R"("none", "linear", "yarn" or rope_freqs.weight)",
                              shown(type));
  }
  if (type == "none" || factor == 0 || factor == 1) return;
  if (factor < 1) return fields.invalid(factor_key, "1..1e6", absl::StrCat(factor));
  if (type == "linear") {
    config.rope_scaling = LinearRopeScaling{.factor = factor};
  } else {
    config.rope_scaling = read_yarn(fields, factor, config.context);
  }
}

std::string gguf_layer_tensor(std::string_view stored_name) {
  static const std::map<std::string_view, std::string_view> kNames = {
      {"input_layernorm", "attn_norm"},
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.qkv_proj", "attn_qkv"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"self_attn.o_proj", "attn_output"},
      {"post_attention_layernorm", "ffn_norm"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.gate_up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  const size_t suffix = stored_name.rfind('.');
  const auto found = kNames.find(stored_name.substr(0, suffix));
  KASCADE_CHECK(found != kNames.end());
  return std::string(found->second).append(stored_name.substr(suffix));
}

}  // namespace kascade::convert
