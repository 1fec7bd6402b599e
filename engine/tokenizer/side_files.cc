#include "engine/tokenizer/side_files.h"

#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kascade::bpe {
namespace {

namespace fs = std::filesystem;

constexpr uintmax_t kMaxFileBytes = 16u << 20;  // real ones have up to 60 KB

absl::Status in_file(const fs::path& file, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(file.string(), ": ", what));
}

// The field as true or false; `fallback` if it is absent or null.
absl::StatusOr<bool> flag_of(const Json& config, const fs::path& file, const char* name,
                             bool fallback) {
  const auto found = config.find(name);
  if (found == config.end() || found->is_null()) return fallback;
  if (found->is_boolean()) return found->get<bool>();
  return in_file(file, std::string(malformed(name, *found, "true or false").message()));
}

// A special token is its text, or an object that has the text as "content".
absl::StatusOr<std::optional<std::string>> token_of(const Json& config, const fs::path& file,
                                                    const char* name) {
  const auto found = config.find(name);
  if (found == config.end() || found->is_null()) return std::nullopt;
  const Json content = found->is_object() ? found->value("content", Json()) : *found;
  if (content.is_string()) return content.get<std::string>();
  return in_file(
      file, std::string(malformed(name, *found, "a text, or an object with `content`").message()));
}

std::optional<int32_t> id_of(const Json& tokenizer, const std::string& token) {
  const Json added = tokenizer.value("added_tokens", Json::array());
  for (const Json& entry : added.is_array() ? added : Json::array()) {
    if (!entry.is_object() || entry.value("content", Json()) != token) continue;
    const Json id = entry.value("id", Json());
    if (is_natural(id) && id.get<uint64_t>() <= INT32_MAX) return id.get<int32_t>();
  }
  const auto model = tokenizer.find("model");
  if (model == tokenizer.end() || !model->is_object()) return std::nullopt;
  const auto vocab = model->find("vocab");
  if (vocab == model->end() || !vocab->is_object()) return std::nullopt;
  const auto id = vocab->find(token);
  const bool found = id != vocab->end() && is_natural(*id) && id->get<uint64_t>() <= INT32_MAX;
  return found ? std::optional(id->get<int32_t>()) : std::nullopt;
}

// Builds the post-processor of Hugging Face's Llama tokenizers.
class LlamaTemplate {
 public:
  LlamaTemplate(const fs::path& directory, const Json& config, const Json& tokenizer)
      : directory_(directory),
        file_(directory / "tokenizer_config.json"),
        config_(config),
        tokenizer_(tokenizer) {}

  absl::StatusOr<Json> build() {
    if (auto status = add_if("add_bos_token", "bos_token", "<s>", true); !status.ok())
      return status;
    items_.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
    if (auto status = add_if("add_eos_token", "eos_token", "</s>", false); !status.ok()) {
      return status;
    }
    Json json = {{"type", "TemplateProcessing"}, {"pair", Json::array()}};
    json["single"] = items_;
    json["special_tokens"] = tokens_;
    return json;
  }

 private:
  absl::Status add_if(const char* flag, const char* name, const char* usual, bool by_default) {
    const auto wanted = flag_of(config_, file_, flag, by_default);
    if (!wanted.ok()) return wanted.status();
    if (!*wanted) return absl::OkStatus();
    auto text = token_of(config_, file_, name);
    if (text.ok() && !*text) text = mapped(name);
    if (!text.ok()) return text.status();
    const std::string token = text->value_or(usual);
    const auto id = id_of(tokenizer_, token);
    if (!id) {
      return in_file(file_, absl::StrCat(flag, ": the tokenizer has no token ", Json(token).dump(),
                                         ", which ", name, " names"));
    }
    items_.push_back({{"SpecialToken", {{"id", token}, {"type_id", 0}}}});
    tokens_[token] = {{"id", token}, {"ids", {*id}}, {"tokens", {token}}};
    return absl::OkStatus();
  }

  // The token by special_tokens_map.json, where older folders have it.
  absl::StatusOr<std::optional<std::string>> mapped(const char* name) {
    const fs::path file = directory_ / "special_tokens_map.json";
    const auto map = read_side_file(file);
    if (!map.ok()) return map.status();
    const std::optional<Json>& tokens = *map;
    if (!tokens) return std::nullopt;
    return token_of(*tokens, file, name);
  }

  const fs::path& directory_;
  const fs::path file_;
  const Json& config_;
  const Json& tokenizer_;
  Json items_ = Json::array();
  Json tokens_ = Json::object();
};

}  // namespace

absl::StatusOr<std::optional<Json>> read_side_file(const fs::path& file) {
  std::error_code error;
  if (!fs::exists(file, error)) return std::nullopt;
  const uintmax_t bytes = fs::file_size(file, error);
  if (error) return in_file(file, error.message());
  if (bytes > kMaxFileBytes) {
    return in_file(file, absl::StrCat(bytes, " bytes, expected at most ", kMaxFileBytes));
  }
  std::ifstream in(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  auto json = parse_json(text);
  if (!json.ok()) return in_file(file, std::string(json.status().message()));
  if (!json->is_object()) return in_file(file, "expected an object");
  return std::optional<Json>(*std::move(json));
}

absl::Status apply_tokenizer_config(const fs::path& directory, Json& tokenizer) {
  // Read although few folders need it, so that a damaged one does not pass unnoticed.
  const auto map = read_side_file(directory / "special_tokens_map.json");
  if (!map.ok()) return map.status();
  const fs::path file = directory / "tokenizer_config.json";
  const auto found = read_side_file(file);
  if (!found.ok()) return found.status();
  const std::optional<Json>& config = *found;
  if (!config || !tokenizer.is_object()) return absl::OkStatus();
  const Json name = config->value("tokenizer_class", Json());
  if (!name.is_null() && !name.is_string()) {
    return in_file(file, std::string(malformed("tokenizer_class", name, "a string").message()));
  }
  if (name != "LlamaTokenizer" && name != "LlamaTokenizerFast") return absl::OkStatus();
  auto post_processor = LlamaTemplate(directory, *config, tokenizer).build();
  if (!post_processor.ok()) return post_processor.status();
  tokenizer["post_processor"] = *std::move(post_processor);
  return absl::OkStatus();
}

}  // namespace kascade::bpe
