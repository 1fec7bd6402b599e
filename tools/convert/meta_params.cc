#include "tools/convert/meta_params.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/model/json.h"
#include "tools/convert/model_sizes.h"

namespace kascade::convert {
namespace {

using nlohmann::json;

// far above any real size, and small enough that no product overflows
constexpr int64_t kLargest = int64_t{1} << 40;
constexpr int32_t kScaledContext = 131072;
constexpr int32_t kLlama3Context = 8192;
constexpr int32_t kLlama2Context = 4096;
constexpr double kLlama3Theta = 500000;

constexpr int32_t kLlama2Bos = 1;
constexpr int32_t kLlama2Eos = 2;
constexpr int32_t kLlama3Vocab = 128256;
constexpr int32_t kBeginOfText = 128000;
constexpr int32_t kEndOfText = 128001;
constexpr int32_t kEndOfMessage = 128008;
constexpr int32_t kEndOfTurn = 128009;

// Keys that are read below, or that (max_…) are the sizes of buffers in Meta's own code.
constexpr const char* kKnownKeys[] = {"dim",         "n_layers",       "n_heads",
                                      "n_kv_heads",  "vocab_size",     "ffn_dim_multiplier",
                                      "norm_eps",    "rope_theta",     "use_scaled_rope",
                                      "multiple_of", "max_batch_size", "max_seq_len"};

class Reader {
 public:
  Reader(const json& object, const std::string& file, const SourceOptions& options)
      : object_(object), file_(file), options_(options) {}

  absl::StatusOr<MetaParams> read() {
    refuse_unknown();
    read_sizes();
    if (!error_.ok()) return error_;
    read_rope();
    if (!error_.ok()) return error_;
    return std::move(params_);
  }

 private:
  // Keeps the first error; after it, reads return default values.
  void fail(const std::string& key, const std::string& fault,
            absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    if (error_.ok()) error_ = absl::Status(code, absl::StrCat(file_, ": ", key, ": ", fault));
  }
  // Returns null when the key is absent or null.
  const json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  int64_t integer(const char* key, std::optional<int64_t> fallback) {
    const json* value = find(key);
    if (!value && fallback) return *fallback;
    const std::optional<int64_t> number = value ? as_integer(*value) : std::nullopt;
    if (number && *number >= -kLargest && *number <= kLargest) return *number;
    fail(key, absl::StrCat("expected an integer, found ", value ? shown(*value) : "nothing"));
    return fallback.value_or(1);
  }
  std::optional<double> number(const char* key, double low, double high) {
    const json* value = find(key);
    if (!value) return std::nullopt;
    const double found = value->is_number() ? value->get<double>() : std::nan("");
    if (found >= low && found <= high) return found;
    fail(key, absl::StrCat("expected a number in ", low, "..", high, ", found ", shown(*value)));
    return std::nullopt;
  }

  void refuse_unknown() {
    for (const auto& [key, value] : object_.items()) {
      if (value.is_null() || std::ranges::count(kKnownKeys, key) > 0) continue;
      const bool is_quantised = key == "quantization_args" || key == "lora_args";
      fail(shown(key),
           is_quantised ? "quantised checkpoints and adapters are not read; convert the bf16 one"
                        : "not a key of a plain Llama (vision, experts and other variants are not "
                          "read)",
           absl::StatusCode::kUnimplemented);
    }
  }

  void read_sizes() {
    ModelSizes sizes;
    sizes.layers = integer("n_layers", std::nullopt);
    sizes.hidden = integer("dim", std::nullopt);
    sizes.heads = integer("n_heads", std::nullopt);
    sizes.kv_heads = integer("n_kv_heads", sizes.heads);
    const int64_t vocab = integer("vocab_size", -1);
    sizes.vocab = vocab == -1 ? 1 : vocab;
    sizes.context = kLlama2Context;  // a default that read_rope() may replace
    if (sizes.heads < 1 || sizes.hidden % sizes.heads != 0) {
      return fail("dim", absl::StrCat("expected a multiple of n_heads, ", sizes.heads, ", found ",
                                      sizes.hidden));
    }
    sizes.head_dim = sizes.hidden / sizes.heads;
    const auto multiplier = number("ffn_dim_multiplier", 1e-3, 1e3);
    const int64_t multiple_of = integer("multiple_of", 256);
    if (multiple_of < 1) {
      return fail("multiple_of", absl::StrCat("expected 1 or more, found ", multiple_of));
    }
    sizes.intermediate = meta_mlp_width(sizes.hidden, multiplier, multiple_of);
    const auto config = config_of(sizes,
                                  {.layers = "n_layers",
                                   .hidden = "dim",
                                   .intermediate = "width of the MLP by dim, ffn_dim_multiplier "
                                                   "and multiple_of",
                                   .heads = "n_heads",
                                   .kv_heads = "n_kv_heads",
                                   .head_dim = "dim / n_heads",
                                   .vocab = "vocab_size"},
                                  file_);
    if (error_.ok()) error_ = config.status();
    if (!error_.ok()) return;
    params_.config = *config;
    if (vocab == -1) params_.config.vocab = 0;
    params_.config.norm_eps = number("norm_eps", 1e-12, 0.1).value_or(1e-5);
  }

  void read_rope() {
    ModelConfig& config = params_.config;
    config.rope_theta = number("rope_theta", 1, 1e15).value_or(10000);
    const json* scaled = find("use_scaled_rope");
    if (scaled && !scaled->is_boolean()) {
      return fail("use_scaled_rope",
                  absl::StrCat("expected true or false, found ", shown(*scaled)));
    }
    if (scaled && scaled->get<bool>()) return read_scaling();
    if (options_.rope_factor) {
      return fail("use_scaled_rope", absl::StrCat("expected true, because a rope factor of ",
                                                  *options_.rope_factor, " is asked for"));
    }
    if (config.rope_theta == kLlama3Theta) {
      config.context = kLlama3Context;
      return decide(absl::StrCat("context ", config.context,
                                 ": rope theta 500000 without scaling, as in Llama 3"));
    }
    config.context = kLlama2Context;
    decide(absl::StrCat("context ", config.context,
                        ": Llama 2's; params.json does not tell it from Llama 1, which has 2048"));
  }

  void read_scaling() {
    ModelConfig& config = params_.config;
    config.context = kScaledContext;
    const bool is_small = config.layers == 16 || config.layers == 28;
    double factor = is_small ? 32 : 8;
    if (options_.rope_factor) {
      factor = *options_.rope_factor;
      if (!(factor >= 1 && factor <= 1e38)) {
        return fail("rope factor", absl::StrCat("expected a number in 1..1e38, found ", factor));
      }
      decide(absl::StrCat("rope factor ", factor, ": asked for"));
    } else {
      decide(absl::StrCat("rope factor ", factor, ": ", config.layers, " layers (",
                          is_small ? "a Llama 3.2 size" : "as in Llama 3.1 and 3.3", ")"));
    }
    config.rope_scaling = Llama3RopeScaling{.factor = factor};
    decide(absl::StrCat("context ", config.context, ": scaled rope, as in Llama 3.1 and later"));
  }

  void decide(std::string sentence) { params_.decisions.push_back(std::move(sentence)); }

  const json& object_;
  const std::string& file_;
  const SourceOptions& options_;
  MetaParams params_;
  absl::Status error_;
};

}  // namespace

int64_t meta_mlp_width(int64_t hidden, std::optional<double> multiplier, int64_t multiple_of) {
  int64_t width = 2 * 4 * hidden / 3;
  if (multiplier) width = static_cast<int64_t>(*multiplier * static_cast<double>(width));
  return (width + multiple_of - 1) / multiple_of * multiple_of;
}

absl::StatusOr<MetaParams> parse_meta_params(std::string_view text, const std::string& file,
                                             const SourceOptions& options) {
  const auto document = parse_json_object(text, file);
  if (!document.ok()) return document.status();
  const auto inner = document->find("model");
  const bool is_wrapped = inner != document->end() && inner->is_object();
  return Reader(is_wrapped ? *inner : *document, file, options).read();
}

void choose_meta_tokens(const std::string& folder_name, MetaParams& params) {
  ModelConfig& config = params.config;
  if (config.vocab < kLlama3Vocab) {
    if (config.vocab <= kLlama2Eos) return;
    config.bos_token = kLlama2Bos;
    config.eos_tokens = {kLlama2Eos};
    return params.decisions.push_back(absl::StrCat("bos ", kLlama2Bos, ", eos ", kLlama2Eos,
                                                   ": Llama 2's, as ", config.vocab,
                                                   " tokens are fewer than Llama 3 has"));
  }
  config.bos_token = kBeginOfText;
  const std::string name = absl::AsciiStrToLower(folder_name);
  if (absl::StrContains(name, "llama") && !absl::StrContains(name, "instruct")) {
    config.eos_tokens = {kEndOfText};
    params.decisions.push_back(absl::StrCat("eos ", kEndOfText, ": a base model by the name of ",
                                            "its folder, ", shown(folder_name)));
    return;
  }
  config.eos_tokens = {kEndOfText, kEndOfMessage, kEndOfTurn};
  params.decisions.push_back(absl::StrCat(
      "eos ", kEndOfText, ", ", kEndOfMessage, ", ", kEndOfTurn,
      ": an Instruct model, or nothing that tells (a base model gives only the ", "first)"));
}

}  // namespace kascade::convert
