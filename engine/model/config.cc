#include "engine/model/config.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <numbers>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/file.h"
#include "engine/model/json.h"

namespace kascade {
namespace {

using nlohmann::json;

constexpr int64_t kMaxConfigBytes = 1 << 20;

// These limits are generous for any Llama and small enough that no product of them (at most layers
// · (4 q_dim + 3 intermediate) · hidden) exceeds 63 bits.
constexpr int64_t kMaxHidden = 1 << 18;
constexpr int64_t kMaxIntermediate = 1 << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxContext = 1 << 24;
constexpr double kMaxTheta = 1e15;
constexpr size_t kMaxEosTokens = 256;

// Type-checked access to the fields of one object. The first error is kept in `first_error`, and
// the value read becomes a harmless one, so that callers check for errors once at the end.
class Fields {
 public:
  Fields(const json& object, std::string where, absl::Status& first_error)
      : object_(object), where_(std::move(where)), first_error_(first_error) {}

  // Null if the field is absent or null.
  const json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  const json& object() const { return object_; }

  void invalid(const std::string& key, const std::string& expected, const json& found) const {
    fail(absl::StatusCode::kInvalidArgument, key,
         absl::StrCat("expected ", expected, ", found ", shown(found)));
  }
  void unsupported(const std::string& key, const std::string& expected, const json& found) const {
    fail(absl::StatusCode::kUnimplemented, key,
         absl::StrCat("only ", expected, " is supported, found ", shown(found)));
  }
  void missing(const std::string& key) const {
    fail(absl::StatusCode::kInvalidArgument, key, "is missing");
  }

  int32_t integer(const char* key, int64_t low, int64_t high) const {
    const json* value = required(key);
    return value ? integer(key, *value, low, high) : static_cast<int32_t>(low);
  }
  int32_t integer_or(const char* key, int64_t low, int64_t high, int32_t fallback) const {
    const json* value = find(key);
    return value ? integer(key, *value, low, high) : fallback;
  }
  int32_t integer(const std::string& key, const json& value, int64_t low, int64_t high) const {
    const std::optional<int64_t> number = as_integer(value);
    if (number && *number >= low && *number <= high) return static_cast<int32_t>(*number);
    invalid(key, absl::StrCat("an integer in ", low, "..", high), value);
    return static_cast<int32_t>(low);
  }

  double number(const char* key, double low, double high) const {
    const json* value = required(key);
    return value ? number(key, *value, low, high) : low;
  }
  std::optional<double> maybe_number(const char* key, double low, double high) const {
    const json* value = find(key);
    return value ? std::optional(number(key, *value, low, high)) : std::nullopt;
  }

  bool boolean_or(const char* key, bool fallback) const {
    const json* value = find(key);
    if (value && !value->is_boolean()) invalid(key, "true or false", *value);
    return value && value->is_boolean() ? value->get<bool>() : fallback;
  }
  std::optional<std::string> maybe_text(const char* key) const {
    const json* value = find(key);
    if (!value) return std::nullopt;
    if (value->is_string()) return value->get<std::string>();
    invalid(key, "a string", *value);
    return std::nullopt;
  }
  Fields inside(const char* key, const json& value) const {
    return {value, absl::StrCat(where_, key, "."), first_error_};
  }

 private:
  const json* required(const char* key) const {
    const json* value = find(key);
    if (!value) missing(key);
    return value;
  }
  double number(const char* key, const json& value, double low, double high) const {
    const double number = value.is_number() ? value.get<double>() : std::nan("");
    if (number >= low && number <= high) return number;
    invalid(key, absl::StrCat("a number in ", low, "..", high), value);
    return low;
  }
  void fail(absl::StatusCode code, const std::string& key, const std::string& fault) const {
    if (first_error_.ok())
      first_error_ = absl::Status(code, absl::StrCat(where_, key, ": ", fault));
  }

  const json& object_;
  std::string where_;
  absl::Status& first_error_;
};

void require_llama(const Fields& fields) {
  const auto type = fields.maybe_text("model_type");
  if (!type) return fields.missing("model_type");
  if (*type != "llama") return fields.unsupported("model_type", "\"llama\"", *type);
  const json* names = fields.find("architectures");
  if (!names) return;
  if (!names->is_array()) return fields.invalid("architectures", "a list", *names);
  if (std::find(names->begin(), names->end(), "LlamaForCausalLM") == names->end()) {
    fields.unsupported("architectures", "LlamaForCausalLM", *names);
  }
}

// A window that is switched off, or never shorter than the text, leaves nothing out.
void refuse_sliding_window(const Fields& fields) {
  const json* window = fields.find("sliding_window");
  const std::optional<int64_t> size = window ? as_integer(*window) : std::nullopt;
  const json* context = fields.find("max_position_embeddings");
  const auto positions = context ? as_integer(*context) : std::nullopt;
  const bool covers_all = size && positions && *size >= *positions;
  if (window && !covers_all && fields.boolean_or("use_sliding_window", true)) {
    fields.unsupported("sliding_window", "null (no sliding window in the model itself)", *window);
  }
}

// Refuses ways to attend that are not computed here, by their name. This comes before the check of
// the model's type, because it is the reason that helps.
void refuse_attention_kinds(const Fields& fields) {
  if (const json* rank = fields.find("kv_lora_rank")) {
    fields.unsupported("kv_lora_rank", "null (no multi-head latent attention, MLA)", *rank);
  }
  if (!fields.boolean_or("is_causal", true)) {
    fields.unsupported("is_causal", "true (causal attention, not full attention)", false);
  }
  refuse_sliding_window(fields);
  if (const json* chunk = fields.find("attention_chunk_size")) {
    fields.unsupported("attention_chunk_size", "null (no chunked attention in the model itself)",
                       *chunk);
  }
}

// Refuses options of Hugging Face's Llama, and of models derived from it, that would change the
// result.
void refuse_variants(const Fields& fields) {
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (fields.boolean_or(key, false)) fields.unsupported(key, "false", true);
  }
  // "swish" is another name of the same function.
  const std::string activation = fields.maybe_text("hidden_act").value_or("silu");
  if (activation != "silu" && activation != "swish") {
    fields.unsupported("hidden_act", "\"silu\"", activation);
  }
  const json* partial = fields.find("partial_rotary_factor");
  if (partial && *partial != 1) fields.unsupported("partial_rotary_factor", "1", *partial);
  if (const json* quantized = fields.find("quantization_config")) {
    fields.unsupported("quantization_config", "null", *quantized);
  }
  // Into how many sums a product was divided for training, which changes rounding alone.
  fields.integer_or("pretraining_tp", 1, kMaxHidden, 1);
}

void read_heads(const Fields& fields, ModelConfig& config) {
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

void read_sizes(const Fields& fields, ModelConfig& config) {
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

// Parameters of other rope types. Hugging Face's code for the types "default" and "llama3" does not
// look at them, and neither does this one.
const std::set<std::string>& rope_keys_without_effect() {
  static const std::set<std::string> kKeys = {
      "attention_factor", "beta_fast", "beta_slow", "finetuned",      "long_factor",
      "mscale",           "truncate",  "rope_dim",  "mscale_all_dim", "short_factor"};
  return kKeys;
}

void allow_only(const Fields& rope, const std::string& type, const std::set<std::string>& allowed) {
  for (const auto& [key, value] : rope.object().items()) {
    if (rope_keys_without_effect().contains(key)) continue;
    if (allowed.count(key) == 0 && !value.is_null()) {
      rope.unsupported(key, absl::StrCat("null in rope type ", shown(type)), value);
    }
  }
}

Llama3RopeScaling read_llama3(const Fields& rope) {
  Llama3RopeScaling scaling;
  scaling.factor = rope.number("factor", 1, 1e38);
  scaling.low_freq_factor = rope.number("low_freq_factor", 1e-6, 1e6);
  scaling.high_freq_factor = rope.number("high_freq_factor", 1e-6, 1e6);
  scaling.original_context = rope.integer("original_max_position_embeddings", 1, kMaxContext);
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    rope.invalid("high_freq_factor",
                 absl::StrCat("more than low_freq_factor, ", scaling.low_freq_factor),
                 scaling.high_freq_factor);
  }
  return scaling;
}

// The object is called `rope_scaling`, in newer files `rope_parameters`, and its type `type`, in
// newer files `rope_type`. Files often have both the old and the new name.
std::optional<Llama3RopeScaling> read_rope_object(const Fields& rope) {
  const auto old_type = rope.maybe_text("type");
  const std::string type = rope.maybe_text("rope_type").value_or(old_type.value_or("default"));
  if (old_type && *old_type != type) rope.invalid("type", "the same as rope_type", *old_type);
  std::set<std::string> allowed = {"type", "rope_type", "rope_theta", "partial_rotary_factor"};
  const json* partial = rope.find("partial_rotary_factor");
  if (partial && *partial != 1) rope.unsupported("partial_rotary_factor", "1", *partial);
  const std::set<std::string> of_llama3 = {"factor", "low_freq_factor", "high_freq_factor",
                                           "original_max_position_embeddings"};
  const bool is_named = old_type || rope.find("rope_type");
  if (is_named || type != "default") allowed.insert(of_llama3.begin(), of_llama3.end());
  // Positions divided by 1 are the positions.
  const json* factor = rope.find("factor");
  const bool divides_by_1 = factor && *factor == 1 && (type == "linear" || type == "dynamic");
  if (type == "default" || divides_by_1) {
    allow_only(rope, type, allowed);
    return std::nullopt;
  }
  if (type != "llama3") {
    rope.unsupported("rope_type", "\"default\" or \"llama3\"", type);
    return std::nullopt;
  }
  allow_only(rope, type, allowed);
  return read_llama3(rope);
}

void read_rope(const Fields& fields, ModelConfig& config) {
  std::optional<double> theta = fields.maybe_number("rope_theta", 1, kMaxTheta);
  bool is_first = true;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json* value = fields.find(key);
    if (!value) continue;
    if (!value->is_object()) return fields.invalid(key, "an object or null", *value);
    const Fields rope = fields.inside(key, *value);
    const auto scaling = read_rope_object(rope);
    if (!is_first && scaling != config.rope_scaling) {
      fields.invalid(key, "the same as rope_scaling", *value);
    }
    config.rope_scaling = scaling;
    is_first = false;
    const auto inner = rope.maybe_number("rope_theta", 1, kMaxTheta);
    if (inner && theta && *inner != *theta) {
      rope.invalid("rope_theta", absl::StrCat("the other rope_theta, ", *theta), *inner);
    }
    if (inner) theta = inner;
  }
  config.rope_theta = theta.value_or(config.rope_theta);
}

std::vector<int32_t> read_eos(const Fields& fields, int32_t vocab) {
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
  return tables + layers * (attention + feed_forward + 2 * width) + width;
}

absl::StatusOr<ModelConfig> parse_config(std::string_view config_json,
                                         std::string_view generation_config_json) {
  const auto document = parse_json_object(config_json, "config.json");
  if (!document.ok()) return document.status();
  absl::Status error;
  const Fields fields(*document, "config.json: ", error);
  ModelConfig config;
  refuse_attention_kinds(fields);
  require_llama(fields);
  refuse_variants(fields);
  read_sizes(fields, config);
  read_rope(fields, config);
  if (const json* bos = fields.find("bos_token_id")) {
    config.bos_token = fields.integer("bos_token_id", *bos, 0, config.vocab - 1);
  }
  config.eos_tokens = read_eos(fields, config.vocab);
  if (!error.ok()) return error;
  if (generation_config_json.empty()) return config;

  const auto generation = parse_json_object(generation_config_json, "generation_config.json");
  if (!generation.ok()) return generation.status();
  auto eos = read_eos(Fields(*generation, "generation_config.json: ", error), config.vocab);
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

std::vector<double> rope_frequencies(const ModelConfig& config) {
  std::vector<double> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t pair = 0; pair < frequencies.size(); ++pair) {
    const double exponent = -2.0 * static_cast<double>(pair) / config.head_dim;
    double& frequency = frequencies[pair] = std::pow(config.rope_theta, exponent);
    if (!config.rope_scaling) continue;
    const Llama3RopeScaling& scaling = *config.rope_scaling;
    // The number of turns that the pair makes within the context of the model's first training.
    const double turns = scaling.original_context * frequency / (2 * std::numbers::pi);
    const double blend =
        (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
    const double kept = std::clamp(blend, 0.0, 1.0);
    frequency *= kept + (1 - kept) / scaling.factor;
  }
  return frequencies;
}

}  // namespace kascade
