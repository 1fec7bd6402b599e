#include "engine/model/config.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/config_fields.h"
#include "engine/model/families/model_family.h"
#include "engine/model/file.h"
#include "engine/model/json.h"
#include "engine/model/rope_config.h"

namespace kascade {
namespace {

using nlohmann::json;

constexpr int64_t kMaxConfigBytes = 1 << 20;

// These limits are generous for any model and small enough that no product of them (at most layers
// · (4 q_dim + 3 intermediate) · hidden) exceeds 63 bits.
constexpr int64_t kMaxHidden = 1 << 18;
constexpr int64_t kMaxIntermediate = 1 << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr size_t kMaxEosTokens = 256;

// The family that the configuration names; null, with an error, if it is none of those known.
const ModelFamily* read_family(const ConfigFields& fields) {
  const auto type = fields.maybe_text("model_type");
  if (!type) {
    fields.missing("model_type");
    return nullptr;
  }
  const ModelFamily* family = find_model_family(*type);
  if (family == nullptr) {
    fields.unsupported("model_type", model_type_list(), *type);
    return nullptr;
  }
  const json* names = fields.find("architectures");
  if (names && !names->is_array()) fields.invalid("architectures", "a list", *names);
  if (names &&
      std::find(names->begin(), names->end(), json(family->architecture)) == names->end()) {
    fields.unsupported("architectures", std::string(family->architecture), *names);
  }
  for (const std::string& key : family->required_keys) {
    if (!fields.object().contains(key)) fields.missing(key);
  }
  return family;
}

// Refuses ways to attend that are not computed here, by their name. This comes before the check of
// the model's type, because it is the reason that helps.
void refuse_attention_kinds(const ConfigFields& fields) {
  if (const json* rank = fields.find("kv_lora_rank")) {
    fields.unsupported("kv_lora_rank", "null (no multi-head latent attention, MLA)", *rank);
  }
  if (!fields.boolean_or("is_causal", true)) {
    fields.unsupported("is_causal", "true (causal attention, not full attention)", false);
  }
  if (const json* chunk = fields.find("attention_chunk_size")) {
    fields.unsupported("attention_chunk_size", "null (no chunked attention in the model itself)",
                       *chunk);
  }
}

// Refuses options that no family has here and that would change the result.
void refuse_variants(const ConfigFields& fields) {
  if (fields.boolean_or("mlp_bias", false)) fields.unsupported("mlp_bias", "false", true);
  // "swish" is another name of the same function.
  const std::string activation = fields.maybe_text("hidden_act").value_or("silu");
  if (activation != "silu" && activation != "swish") {
    fields.unsupported("hidden_act", "\"silu\"", activation);
  }
  const json* partial = fields.find("partial_rotary_factor");
  if (partial && *partial != 1) fields.unsupported("partial_rotary_factor", "1", *partial);
  if (const json* quantized = fields.find("quantization_config")) {
    // AWQ, GPTQ … store integers in layouts of their own; the name of the layout says enough.
    fields.unsupported(
        "quantization_config",
        "an unquantised checkpoint (--weights int8 and int4 round it at the start) "
        "or a GGUF file of the model (kascade-convert reads it)",
        quantized->is_object() ? quantized->value("quant_method", *quantized) : *quantized);
  }
  // Into how many sums a product was divided for training, which changes rounding alone.
  fields.integer_or("pretraining_tp", 1, kMaxHidden, 1);
}

void read_heads(const ConfigFields& fields, ModelConfig& config) {
  config.heads = fields.integer("num_attention_heads", 1, kMaxHeads);
  config.kv_heads = fields.integer_or("num_key_value_heads", 1, kMaxHeads, config.heads);
  if (config.heads % config.kv_heads != 0) {
    fields.invalid("num_key_value_heads",
                   absl::StrCat("a divisor of num_attention_heads, ", config.heads),
                   config.kv_heads);
  }
  if (!fields.find("head_dim") && config.hidden % config.heads != 0) {
    fields.invalid("hidden_size", absl::StrCat("a multiple of ", config.heads, " heads"),
                   config.hidden);
  }
  config.head_dim = fields.integer_or("head_dim", 2, kMaxHeadDim, config.hidden / config.heads);
  if (config.head_dim < 2 || config.head_dim > kMaxHeadDim || config.head_dim % 2 != 0) {
    fields.invalid("head_dim", absl::StrCat("an even number in 2..", kMaxHeadDim), config.head_dim);
  }
}

void read_sizes(const ConfigFields& fields, ModelConfig& config) {
  config.hidden = fields.integer("hidden_size", 1, kMaxHidden);
  config.intermediate = fields.integer("intermediate_size", 1, kMaxIntermediate);
  config.layers = fields.integer("num_hidden_layers", 1, kMaxLayers);
  config.vocab = fields.integer("vocab_size", 1, kMaxVocab);
  config.context = fields.integer("max_position_embeddings", 1, kMaxContext);
  // An epsilon below 1e-12 is lost in f32, and a row of zeros would become NaN.
  config.norm_eps = fields.number("rms_norm_eps", 1e-12, 0.1);
  config.tied_head = fields.boolean_or("tie_word_embeddings", false);
  read_heads(fields, config);
}

std::vector<int32_t> read_eos(const ConfigFields& fields, int32_t vocab) {
  std::vector<int32_t> tokens;
  const json* value = fields.find("eos_token_id");
  if (!value) return tokens;
  if (!value->is_array()) return {fields.integer("eos_token_id", *value, 0, vocab - 1)};
  if (value->size() > kMaxEosTokens) {
    fields.invalid("eos_token_id", absl::StrCat("at most ", kMaxEosTokens, " ids"), value->size());
    return tokens;
  }
  for (const json& entry : *value) {
    const int32_t token = fields.integer("eos_token_id", entry, 0, vocab - 1);
    if (std::find(tokens.begin(), tokens.end(), token) == tokens.end()) tokens.push_back(token);
  }
  return tokens;
}

}  // namespace

int64_t ModelConfig::parameters() const {
  const int64_t width = hidden;
  const int64_t attention = 2 * width * (q_dim() + kv_dim());
  const int64_t feed_forward = 3 * width * intermediate;
  const int64_t tables = (tied_head ? 1 : 2) * width * vocab;
  int64_t vectors = 2 * width;
  if (qkv_bias) vectors += q_dim() + 2 * int64_t{kv_dim()};
  if (attention_out_bias) vectors += width;
  if (head_norms) vectors += 2 * int64_t{head_dim};
  return tables + layers * (attention + feed_forward + vectors) + width;
}

absl::StatusOr<ModelConfig> parse_config(std::string_view config_json,
                                         std::string_view generation_config_json) {
  const auto document = parse_json_object(config_json, "config.json");
  if (!document.ok()) return document.status();
  absl::Status error;
  const ConfigFields fields(*document, "config.json: ", error);
  ModelConfig config;
  refuse_attention_kinds(fields);
  const ModelFamily* family = read_family(fields);
  refuse_variants(fields);
  read_sizes(fields, config);
  read_rope(fields, config);
  if (family != nullptr) {
    config.model_type = family->model_type;
    family->read_features(fields, config);
  }
  if (const json* bos = fields.find("bos_token_id")) {
    config.bos_token = fields.integer("bos_token_id", *bos, 0, config.vocab - 1);
  }
  config.eos_tokens = read_eos(fields, config.vocab);
  if (!error.ok()) return error;
  if (generation_config_json.empty()) return config;

  const auto generation = parse_json_object(generation_config_json, "generation_config.json");
  if (!generation.ok()) return generation.status();
  auto eos = read_eos(ConfigFields(*generation, "generation_config.json: ", error), config.vocab);
  if (!error.ok()) return error;
  if (!eos.empty()) config.eos_tokens = std::move(eos);
  return config;
}

absl::StatusOr<std::string> read_generation_config(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "generation_config.json";
  auto text = read_file(file, kMaxConfigBytes);
  if (absl::IsNotFound(text.status())) return std::string();
  if (!text.ok() || !text->empty()) return text;
  return absl::InvalidArgumentError(absl::StrCat(file.string(), ": is empty"));
}

absl::StatusOr<ModelConfig> load_config(const std::filesystem::path& directory) {
  const auto text = read_file(directory / "config.json", kMaxConfigBytes);
  if (!text.ok()) return text.status();
  const auto generation = read_generation_config(directory);
  if (!generation.ok()) return generation.status();
  auto config = parse_config(*text, *generation);
  if (!config.ok()) {
    return absl::Status(config.status().code(),
                        absl::StrCat(directory.string(), ": ", config.status().message()));
  }
  const auto path = std::filesystem::absolute(directory).lexically_normal();
  config->name = path.has_filename() ? path.filename() : path.parent_path().filename();
  return config;
}

}  // namespace kascade
