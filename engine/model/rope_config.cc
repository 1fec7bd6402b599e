#include "engine/model/rope_config.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"

namespace kascade {
namespace {

using nlohmann::json;

constexpr double kMaxTheta = 1e15;
constexpr double kMaxFactor = 1e6;     // of linear and yarn
constexpr double kMaxMagnitude = 1e3;  // of yarn

// Keys that Hugging Face's code for a rope type does not look at. Files of people often carry those
// of other types along.
const std::set<std::string>& keys_without_effect(const std::string& type) {
  static const std::set<std::string> kOfYarn = {"finetuned", "long_factor", "rope_dim",
                                                "short_factor"};
  static const std::set<std::string> kOfOthers = {
      "attention_factor", "beta_fast", "beta_slow", "finetuned",      "long_factor",
      "mscale",           "truncate",  "rope_dim",  "mscale_all_dim", "short_factor"};
  return type == "yarn" ? kOfYarn : kOfOthers;
}

std::set<std::string> keys_of(const std::string& type) {
  std::set<std::string> keys = {"type",       "rope_type",
                                "rope_theta", "partial_rotary_factor",
                                "factor",     "original_max_position_embeddings"};
  if (type == "yarn") {
    keys.insert(
        {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"});
  } else {
    keys.insert({"low_freq_factor", "high_freq_factor"});
  }
  return keys;
}

void allow_only(const ConfigFields& rope, const std::string& type,
                const std::set<std::string>& allowed) {
  for (const auto& [key, value] : rope.object().items()) {
    if (keys_without_effect(type).contains(key)) continue;
    if (allowed.count(key) == 0 && !value.is_null()) {
      rope.unsupported(key, absl::StrCat("null in rope type ", shown(type)), value);
    }
  }
}

Llama3RopeScaling read_llama3(const ConfigFields& rope) {
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

// The factor is the one that the file states. Some versions of Hugging Face's code computed it from
// the two contexts instead, which differs only if the file contradicts itself.
YarnRopeScaling read_yarn(const ConfigFields& rope, int32_t context) {
  YarnRopeScaling scaling;
  scaling.factor = rope.number("factor", 1, kMaxFactor);
  scaling.original_context =
      rope.integer_or("original_max_position_embeddings", 1, kMaxContext, context);
  scaling.beta_fast = rope.maybe_number("beta_fast", 1e-6, 1e6).value_or(32);
  scaling.beta_slow = rope.maybe_number("beta_slow", 1e-6, 1e6).value_or(1);
  if (scaling.beta_fast <= scaling.beta_slow) {
    rope.invalid("beta_fast", absl::StrCat("more than beta_slow, ", scaling.beta_slow),
                 scaling.beta_fast);
  }
  scaling.truncate = rope.boolean_or("truncate", true);
  const double strength = rope.maybe_number("mscale", 0, kMaxMagnitude).value_or(0);
  const double divisor = rope.maybe_number("mscale_all_dim", 0, kMaxMagnitude).value_or(0);
  scaling.magnitude = strength > 0 && divisor > 0 ? yarn_magnitude(scaling.factor, strength) /
                                                        yarn_magnitude(scaling.factor, divisor)
                                                  : yarn_magnitude(scaling.factor);
  const auto stated = rope.maybe_number("attention_factor", 1e-3, kMaxMagnitude);
  scaling.magnitude = stated.value_or(scaling.magnitude);
  return scaling;
}

bool is_supported(const std::string& type) {
  return type == "default" || type == "linear" || type == "llama3" || type == "yarn";
}

// The object is called `rope_scaling`, in newer files `rope_parameters`, and its type `type`, in
// newer files `rope_type`. Files often have both the old and the new name.
std::optional<RopeScaling> read_rope_object(const ConfigFields& rope, int32_t context) {
  const auto old_type = rope.maybe_text("type");
  const std::string type = rope.maybe_text("rope_type").value_or(old_type.value_or("default"));
  if (old_type && *old_type != type) rope.invalid("type", "the same as rope_type", *old_type);
  const json* partial = rope.find("partial_rotary_factor");
  if (partial && *partial != 1) rope.unsupported("partial_rotary_factor", "1", *partial);
  const json* factor = rope.find("factor");
  // Positions divided by 1 are the positions.
  const bool divides_by_1 = factor && *factor == 1 && (type == "linear" || type == "dynamic");
  if (!divides_by_1 && !is_supported(type)) {
    rope.unsupported("rope_type", R"("default", "linear", "llama3" or "yarn")", type);
    return std::nullopt;
  }
  // An object without a type does not tell what its factor would mean.
  const bool is_named = old_type || rope.find("rope_type");
  allow_only(
      rope, type,
      is_named ? keys_of(type) : std::set<std::string>{"rope_theta", "partial_rotary_factor"});
  if (type == "default" || divides_by_1) return std::nullopt;
  if (type == "linear") return LinearRopeScaling{.factor = rope.number("factor", 1, kMaxFactor)};
  if (type == "llama3") return read_llama3(rope);
  return read_yarn(rope, context);
}

// A YaRN factor is often added to a file by hand, as the model's authors advise, without changing
// the context.
int32_t context_of(const ModelConfig& config) {
  if (!config.rope_scaling) return config.context;
  const auto* yarn = std::get_if<YarnRopeScaling>(&*config.rope_scaling);
  if (yarn == nullptr) return config.context;
  const double scaled = std::min<double>(kMaxContext, yarn->factor * yarn->original_context);
  return std::max(config.context, static_cast<int32_t>(scaled));
}

}  // namespace

void read_rope(const ConfigFields& fields, ModelConfig& config) {
  std::optional<double> theta = fields.maybe_number("rope_theta", 1, kMaxTheta);
  bool is_first = true;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json* value = fields.find(key);
    if (!value) continue;
    if (!value->is_object()) return fields.invalid(key, "an object or null", *value);
    const ConfigFields rope = fields.inside(key, *value);
    const auto scaling = read_rope_object(rope, config.context);
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
  config.context = context_of(config);
  const bool is_yarn = config.rope_scaling && name_of(*config.rope_scaling) == "yarn";
  if (is_yarn && config.rope_theta == 1) {
    fields.invalid("rope_theta", "more than 1 in rope type \"yarn\"", config.rope_theta);
  }
}

}  // namespace kascade
