// Finds the chat format of a model from the files in its folder.
#include <fstream>
#include <iterator>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"
#include "engine/tokenizer/chat.h"
#include "engine/tokenizer/chat_format.h"
#include "engine/tokenizer/chat_template_digests.h"
#include "engine/tokenizer/side_files.h"

namespace kascade {
namespace {

// Limit for the size of a template; real ones have up to 60 KB.
constexpr uintmax_t kMaxFileBytes = 16u << 20;

constexpr const char* kHowToName = "chat.format, kascade generate --chat-format";

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

// A special token is its text, or an object that has the text as "content".
std::optional<std::string> token_of(const bpe::Json& config, const char* name) {
  const bpe::Json value = config.value(name, bpe::Json());
  const bpe::Json content = value.is_object() ? value.value("content", bpe::Json()) : value;
  if (!content.is_string()) return std::nullopt;
  return content.get<std::string>();
}

struct TemplateFiles {
  std::optional<std::string> text{};
  // as tokenizer_config.json has them; unset if it does not
  std::optional<std::string> bos{};
  std::optional<std::string> eos{};
};

absl::StatusOr<TemplateFiles> read_template(const std::filesystem::path& directory) {
  TemplateFiles files;
  const std::filesystem::path path = directory / "tokenizer_config.json";
  const auto config = bpe::read_side_file(path);
  if (!config.ok()) return config.status();
  const std::optional<bpe::Json>& content = *config;
  if (content) {
    files.bos = token_of(*content, "bos_token");
    files.eos = token_of(*content, "eos_token");
  }
  auto text = read_if_there(directory / "chat_template.jinja");
  if (text.ok() && !*text && content) text = template_of(*content, path);
  if (!text.ok()) return text.status();
  files.text = *std::move(text);
  return files;
}

absl::StatusOr<ChatFormat> format_of_template(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);  // Jinja drops it too
  const std::string found = digest(text);
  for (const auto& [known, format] : kChatTemplateDigests) {
    if (found == known) return format;
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "the model's chat template is not exactly one of those known (its SHA-256 begins with ",
      found.substr(0, 16), "); name the format that the model was trained on (", kHowToName,
      "): ", chat_format_names()));
}

// Refuses a model that puts other tokens in the template's variables than the format writes.
absl::Status check_variable(const char* name, const std::optional<std::string>& found,
                            std::string_view expected, ChatFormat format) {
  if (!found || expected.empty() || *found == expected) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the model's chat template is one of the format ", std::string(name_of(format)),
                   ", but its ", name, " is ", bpe::Json(*found).dump(),
                   " in tokenizer_config.json and not ", bpe::Json(std::string(expected)).dump(),
                   "; name the format to use it nevertheless (", kHowToName, ")"));
}

}  // namespace

absl::StatusOr<ChatFormat> find_chat_format(const std::filesystem::path& directory,
                                            const Tokenizer& tokenizer) {
  const auto files = read_template(directory);
  if (!files.ok()) return files.status();
  if (files->text) {
    const auto format = format_of_template(*files->text);
    if (!format.ok()) return format;
    const ChatFormatText& text = text_of(*format);
    absl::Status status = check_variable("bos_token", files->bos, text.bos, *format);
    status.Update(check_variable("eos_token", files->eos, text.eos, *format));
    if (!status.ok()) return status;
    return format;
  }
  for (const char* name : {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}) {
    const std::optional<int32_t> id = tokenizer.token_id(name);
    if (id && tokenizer.is_special(*id)) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "the model has no chat template and its tokenizer no header tokens; name the chat format "
        "that the model was trained on (",
        kHowToName, "): ", chat_format_names()));
  }
  return ChatFormat::kLlama3;
}

}  // namespace kascade
