#include "tools/convert/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/json.h"
#include "tools/convert/gguf_architecture.h"
#include "tools/convert/gguf_fields.h"
#include "tools/convert/gguf_types.h"
#include "tools/convert/model_sizes.h"

namespace kascade::convert {
namespace {

const GgufTensor* find_tensor(const GgufFile& file, std::string_view name) {
  const auto& tensors = file.tensors();
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const GgufTensor& tensor) { return tensor.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

absl::Status invalid(const GgufFile& file, const std::string& fault) {
  return absl::InvalidArgumentError(absl::StrCat(file.name(), ": ", fault));
}

void require_whole(GgufFields& fields) {
  const auto parts = fields.maybe_integer("split.count").value_or(1);
  if (parts == 1 || parts == 0) return;
  const auto number = fields.maybe_integer("split.no");
  fields.unsupported(
      "split.count",
      "a model in one file (`llama-gguf-split --merge FIRST-PART OUT.gguf` makes one)",
      absl::StrCat(number ? absl::StrCat("part ", *number + 1, " of ") : "", parts));
}

// Null, with an error, if the engine does not compute the architecture.
const GgufArchitecture* read_architecture(GgufFields& fields) {
  const std::string type = fields.maybe_text("general.type").value_or("model");
  if (type != "model") fields.unsupported("general.type", "\"model\"", shown(type));
  const std::string name = fields.text("general.architecture");
  const GgufArchitecture* architecture = find_gguf_architecture(name);
  if (architecture == nullptr) {
    fields.unsupported("general.architecture", gguf_architecture_list(), shown(name));
  }
  fields.use_architecture(name);
  return architecture;
}

// Refuses settings that would change the result in every architecture.
void refuse_variants(GgufFields& fields) {
  for (const char* name : {"expert_count", "expert_used_count"}) {
    const std::string key = fields.key_of(name);
    const auto value = fields.maybe_integer(key).value_or(0);
    if (value != 0) fields.unsupported(key, "0", absl::StrCat(value));
  }
  for (const char* name : {"attention.clamp_kqv", "rope.scale_linear"}) {
    const std::string key = fields.key_of(name);
    if (fields.has(key)) fields.unsupported(key, "its absence", "it");
  }
}

ModelSizes read_sizes(GgufFields& fields, int64_t vocab) {
  ModelSizes sizes{.layers = fields.integer(fields.key_of("block_count")),
                   .hidden = fields.integer(fields.key_of("embedding_length")),
                   .intermediate = fields.uniform(fields.key_of("feed_forward_length")),
                   .heads = fields.uniform(fields.key_of("attention.head_count")),
                   .vocab = vocab,
                   .context = fields.integer(fields.key_of("context_length"))};
  sizes.kv_heads =
      fields.maybe_uniform(fields.key_of("attention.head_count_kv")).value_or(sizes.heads);
  const auto key_length = fields.maybe_integer(fields.key_of("attention.key_length"));
  if (!key_length && sizes.heads > 0 && sizes.hidden % sizes.heads != 0) {
    fields.invalid(fields.key_of("embedding_length"),
                   absl::StrCat("a multiple of ", sizes.heads, " heads"),
                   absl::StrCat(sizes.hidden));
  }
  sizes.head_dim = key_length.value_or(sizes.heads > 0 ? sizes.hidden / sizes.heads : 0);
  for (const char* name : {"attention.value_length", "rope.dimension_count"}) {
    const auto value = fields.maybe_integer(fields.key_of(name)).value_or(sizes.head_dim);
    if (value == sizes.head_dim) continue;
    fields.unsupported(fields.key_of(name), absl::StrCat("the head size, ", sizes.head_dim, ","),
                       absl::StrCat(value));
  }
  const auto stated = fields.maybe_integer(fields.key_of("vocab_size")).value_or(vocab);
  if (stated != vocab) {
    fields.invalid(fields.key_of("vocab_size"),
                   absl::StrCat("the rows of token_embd.weight, ", vocab), absl::StrCat(stated));
  }
  return sizes;
}

void read_token_ids(GgufFields& fields, ModelConfig& config) {
  const auto id_of = [&](const char* name) -> std::optional<int32_t> {
    const std::string key = absl::StrCat("tokenizer.ggml.", name, "_token_id");
    const auto id = fields.maybe_integer(key);
    if (!id) return std::nullopt;
    if (*id >= 0 && *id < config.vocab) return static_cast<int32_t>(*id);
    fields.invalid(key, absl::StrCat("an id below ", config.vocab), absl::StrCat(*id));
    return std::nullopt;
  };
  config.bos_token = id_of("bos");
  // An answer ends at the token for the end of the text, of a turn or of a message.
  for (const char* name : {"eos", "eot", "eom"}) {
    const auto id = id_of(name);
    auto& ends = config.eos_tokens;
    if (id && std::find(ends.begin(), ends.end(), *id) == ends.end()) ends.push_back(*id);
  }
}

absl::Status read_llama3_divisors(const GgufFile& file, ModelConfig& config) {
  const GgufTensor* tensor = find_tensor(file, "rope_freqs.weight");
  if (!tensor) return absl::OkStatus();
  if (config.rope_scaling) {
    return absl::UnimplementedError(
        absl::StrCat(file.name(),
                     ": tensor \"rope_freqs.weight\": only without rope.scaling.factor is it "
                     "supported, found the factor ",
                     factor_of(*config.rope_scaling)));
  }
  const int64_t pairs = config.head_dim / 2;
  if (ggml_type_name(tensor->type) != "F32" || tensor->dimensions != std::vector<int64_t>{pairs}) {
    return invalid(file, absl::StrCat("tensor \"rope_freqs.weight\": expected ", pairs,
                                      " values of F32, found ", tensor->dimensions[0], " of ",
                                      ggml_type_name(tensor->type)));
  }
  std::vector<float> divisors(static_cast<size_t>(pairs));
  std::memcpy(divisors.data(), tensor->data, static_cast<size_t>(tensor->bytes));
  const auto scaling = recover_rope_scaling(divisors, config);
  if (scaling.ok()) {
    config.rope_scaling = *scaling;
    return absl::OkStatus();
  }
  return absl::Status(scaling.status().code(),
                      absl::StrCat(file.name(), ": ", scaling.status().message()));
}

// relative tolerance of a divisor; divisors were computed in f32
constexpr double kTolerance = 1e-4;

bool are_close(double value, double expected) {
  return std::abs(value - expected) <= kTolerance * expected;
}

absl::StatusOr<ModelConfig> read_sized_config(const GgufFile& file, GgufFields& fields) {
  const GgufTensor* embedding = find_tensor(file, "token_embd.weight");
  if (!embedding || embedding->dimensions.size() != 2) {
    return invalid(file, "tensor \"token_embd.weight\": is missing, or has not two dimensions");
  }
  const ModelSizes sizes = read_sizes(fields, embedding->dimensions[1]);
  if (!fields.error().ok()) return fields.error();
  return config_of(sizes,
                   {.layers = fields.key_of("block_count"),
                    .hidden = fields.key_of("embedding_length"),
                    .intermediate = fields.key_of("feed_forward_length"),
                    .heads = fields.key_of("attention.head_count"),
                    .kv_heads = fields.key_of("attention.head_count_kv"),
                    .head_dim = "head size (attention.key_length)",
                    .vocab = "rows of token_embd.weight",
                    .context = fields.key_of("context_length")},
                   file.name());
}

}  // namespace

absl::StatusOr<std::optional<Llama3RopeScaling>> recover_rope_scaling(
    std::span<const float> divisors, const ModelConfig& config) {
  ModelConfig scaled = config;
  scaled.rope_scaling.reset();
  const std::vector<double> plain = rope_frequencies(scaled);
  // With a very large factor, only the part of a frequency that is never divided ("kept") remains.
  // The slowest pair is divided most, so the factor is computed from it: divisor = 1 / (kept + (1 −
  // kept) / factor).
  scaled.rope_scaling = Llama3RopeScaling{.factor = 1e38};
  const double kept = rope_frequencies(scaled).back() / plain.back();
  double factor = kept < 1 ? (1 - kept) / (1 / double{divisors.back()} - kept) : 1;
  if (are_close(factor, std::round(factor))) factor = std::round(factor);
  if (!(factor >= 1 && factor <= 1e38)) factor = 1;
  scaled.rope_scaling = Llama3RopeScaling{.factor = factor};
  const std::vector<double> frequencies = rope_frequencies(scaled);
  for (size_t pair = 0; pair < plain.size(); ++pair) {
    const double expected = plain[pair] / frequencies[pair];
    if (are_close(divisors[pair], expected)) continue;
    return absl::UnimplementedError(
        absl::StrCat("tensor \"rope_freqs.weight\": only Llama 3's scaling from a context of ",
                     Llama3RopeScaling{}.original_context, " is supported: with factor ", factor,
                     " expected ", expected, " for pair ", pair, ", found ", divisors[pair]));
  }
  if (factor == 1) return std::nullopt;
  return Llama3RopeScaling{.factor = factor};
}

absl::StatusOr<ModelConfig> gguf_config(const GgufFile& file) {
  GgufFields fields(file);
  // The first part of a split model may hold no tensors, and the others no architecture.
  require_whole(fields);
  if (!fields.error().ok()) return fields.error();
  if (file.tensors().empty()) {
    return invalid(file, "has no tensors: it holds a vocabulary only, not a model's weights");
  }
  const GgufArchitecture* architecture = read_architecture(fields);
  refuse_variants(fields);
  if (!fields.error().ok()) return fields.error();
  auto config = read_sized_config(file, fields);
  if (!config.ok()) return config.status();
  const std::string epsilon = fields.key_of("attention.layer_norm_rms_epsilon");
  if (!fields.has(epsilon)) fields.missing(epsilon);
  // The ranges are those of parse_config (engine/model/config.h).
  config->norm_eps = fields.maybe_number(epsilon, 1e-12, 0.1).value_or(0);
  config->rope_theta =
      fields.maybe_number(fields.key_of("rope.freq_base"), 1, 1e15).value_or(10000);
  config->tied_head = find_tensor(file, "output.weight") == nullptr;
  read_token_ids(fields, *config);
  read_gguf_features(file, *architecture, fields, *config);
  read_gguf_rope_scaling(fields, *config);
  if (!fields.error().ok()) return fields.error();
  if (auto status = read_llama3_divisors(file, *config); !status.ok()) return status;
  return config;
}

}  // namespace kascade::convert
