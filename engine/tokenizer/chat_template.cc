// Finds the chat format of a model from the files in its folder.
#include <fstream>
#include <iterator>
#include <optional>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/chat.h"
#include "engine/tokenizer/json_fields.h"

namespace kascade {
namespace {

// Limit for the size of a template; real ones have up to 60 KB.
constexpr uintmax_t kMaxFileBytes = 16u << 20;

absl::Status damaged(const std::filesystem::path& path, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(path.string(), ": ", what));
}

// Returns nullopt if there is no such file.
absl::StatusOr<std::optional<std::string>> read_if_there(const std::filesystem::path& path) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return std::nullopt;
  if (size > kMaxFileBytes) {
    return damaged(path, absl::StrCat(size, " bytes, expected at most ", kMaxFileBytes));
  }
  std::ifstream in(path, std::ios::binary);
  return std::string{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// The field is either one template or a list of named templates, of which "default" is the one for
// conversations.
absl::StatusOr<std::optional<std::string>> template_of(const bpe::Json& config,
                                                       const std::filesystem::path& path) {
  if (!config.is_object()) return damaged(path, "expected an object");
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  for (const bpe::Json& named : found->is_array() ? *found : bpe::Json::array()) {
    if (!named.is_object() || named.value("name", bpe::Json()) != "default") continue;
    const bpe::Json text = named.value("template", bpe::Json());
    if (text.is_string()) return text.get<std::string>();
  }
  return damaged(path, "chat_template: expected a string, or a list with one named default");
}

absl::StatusOr<std::optional<std::string>> find_template(const std::filesystem::path& directory) {
  auto text = read_if_there(directory / "chat_template.jinja");
  if (!text.ok() || *text) return text;
  const std::filesystem::path path = directory / "tokenizer_config.json";
  text = read_if_there(path);
  if (!text.ok()) return text;
  const std::optional<std::string>& content = *text;
  if (!content) return text;
  const absl::StatusOr<bpe::Json> config = bpe::parse_json(*content);
  if (!config.ok()) return damaged(path, std::string(config.status().message()));
  return template_of(*config, path);
}

bool has_all(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts) {
    if (text.find(part) == std::string::npos) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<ChatFormat> find_chat_format(const std::filesystem::path& directory,
                                            const Tokenizer& tokenizer) {
  const auto found = find_template(directory);
  if (!found.ok()) return found.status();
  const std::optional<std::string>& text = *found;
  if (text) {
    if (has_all(*text, {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"})) {
      return ChatFormat::kLlama3;
    }
    if (has_all(*text, {"[INST]", "[/INST]", "<<SYS>>"})) return ChatFormat::kLlama2;
    return absl::FailedPreconditionError(
        "the model's chat template is not one of llama3, llama2; name the format to use one of "
        "them nevertheless");
  }
  for (const char* name : {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}) {
    const std::optional<int32_t> id = tokenizer.token_id(name);
    if (id && tokenizer.is_special(*id)) continue;
    return absl::FailedPreconditionError(
        "the model has no chat template and its tokenizer no header tokens; name the chat format: "
        "llama3 or llama2");
  }
  return ChatFormat::kLlama3;
}

}  // namespace kascade
