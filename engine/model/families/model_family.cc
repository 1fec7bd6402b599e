#include "engine/model/families/model_family.h"

#include <algorithm>
#include <cstdint>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/model/json.h"

namespace kascade {

using nlohmann::json;

const std::vector<ModelFamily>& model_families() {
  static const std::vector<ModelFamily> kFamilies = {granite_family(), llama_family(),
                                                     mistral_family(), phi3_family(),
                                                     qwen2_family(),   qwen3_family()};
  return kFamilies;
}

const ModelFamily* find_model_family(std::string_view model_type) {
  const auto& all = model_families();
  const auto found = std::find_if(
      all.begin(), all.end(), [&](const auto& family) { return family.model_type == model_type; });
  return found == all.end() ? nullptr : &*found;
}

std::string model_type_list() {
  std::string list;
  const auto& all = model_families();
  for (size_t i = 0; i < all.size(); ++i) {
    const char* separator = i == 0 ? "" : i + 1 == all.size() ? " or " : ", ";
    absl::StrAppend(&list, separator, "\"", all[i].model_type, "\"");
  }
  return list;
}

void read_attention_bias(const ConfigFields& fields, ModelConfig& config) {
  config.qkv_bias = config.attention_out_bias = fields.boolean_or("attention_bias", false);
}

void refuse_attention_bias(const ConfigFields& fields) {
  if (fields.boolean_or("attention_bias", false)) {
    fields.unsupported("attention_bias", "false", true);
  }
}

void read_sliding_window(const ConfigFields& fields, ModelConfig& config) {
  if (fields.find("sliding_window") == nullptr) return;
  const int32_t window = fields.integer("sliding_window", 1, kMaxContext);
  // A window that is never shorter than the text leaves nothing out.
  if (window < config.context) config.sliding_window = window;
}

void refuse_sliding_window(const ConfigFields& fields, const ModelConfig& config,
                           bool used_by_default) {
  const bool is_used = fields.boolean_or("use_sliding_window", used_by_default);
  const json* window = fields.find("sliding_window");
  const std::optional<int64_t> size = window ? as_integer(*window) : std::nullopt;
  if (window && is_used && !(size && *size >= config.context)) {
    fields.unsupported("sliding_window", "null (no sliding window in the model itself)", *window);
  }
  // Newer files list the kind of attention of each layer.
  const json* kinds = fields.find("layer_types");
  if (kinds == nullptr) return;
  for (const json& kind : *kinds) {
    if (kind != "full_attention") {
      fields.unsupported("layer_types", "\"full_attention\" in all layers", kind);
    }
  }
}

}  // namespace kascade
