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
#include "engine/tokenizer/side_files.h"

namespace kascade {
namespace {

// Limit for the size of a template; real ones have up to 60 KB.
constexpr uintmax_t kMaxFileBytes = 16u << 20;

// SHA-256 of the templates that encode_chat() follows to the letter. A template that has the marks
// of a format may add a date, tools or a system message of its own, which would be left out without
// a word; so a template counts only as a whole.
constexpr std::pair<std::string_view, ChatFormat> kKnownTemplates[] = {
    // Llama 3 Instruct: the first and the second published form, and the second one with a default
    // for add_generation_prompt; line feeds as such or as \n, with and without a space before a +.
    {"ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122", ChatFormat::kLlama3},
    {"b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2", ChatFormat::kLlama3},
    {"47d5a7b4840c2ff2dfa0828b2465a654bef3a6cdfe032e5e105f395e4ceee812", ChatFormat::kLlama3},
    {"d499ad7b1715355631faa50e1e7472f0c50a37f32b454b3184dde8f89c796aba", ChatFormat::kLlama3},
    {"1b536e8d1c25cc370d4b8e1a3612efee72152080da5521bbb5ee28dde0defd28", ChatFormat::kLlama3},
    {"b0bae32ba15a15447f43e3be979bb4c5807d8fc34180d940efa1e9d77c822135", ChatFormat::kLlama3},
    {"4f46ecd43418f216df8c26936c60e5d04bcc81db47db5d86fbe889f64212dd4c", ChatFormat::kLlama3},
    {"b75e17085cfc511ead6d4fab84b86ab3c168ec7a332568a91d0889cdcba94394", ChatFormat::kLlama3},
    {"25d9364ce09288ed874ade392dfd082b81d3ea3b4d887f008fdcfd8427c7186b", ChatFormat::kLlama3},
    {"51cae80fbc29f47ae194cff291a4fbbd9358bc270b939b078bf25b489384b87e", ChatFormat::kLlama3},
    {"79bc2d5ef3d628d9ae204025ff3764932b4c868f9cf352b17305bdb390762b65", ChatFormat::kLlama3},
    {"6b5632b40cb3b50deef5b7c6cd230da379dbe5013a434942291c77a88e417e1a", ChatFormat::kLlama3},
    // Llama 2 chat: with strip() or trim, with and without a branch for later system messages,
    // which
    // encode_chat() refuses; line feeds as above.
    {"9780fae5bfea3cfd7be37d328c6edfd296a8869be8131495bbe7eb37e780c88c", ChatFormat::kLlama2},
    {"5e53c989e0be846d15684f709272441562fff0321d7d47693d54c0f0ed9f4822", ChatFormat::kLlama2},
    {"7fc58500f0542d84d80c72f9271864203b43152380ca989bf6671d750a1ce813", ChatFormat::kLlama2},
    {"13fd4a3b77e53e08d1ae375a26ad45991a14a49de4062f7cedcebce75c99365f", ChatFormat::kLlama2},
    {"e8d5b5a546d3f19df16a5320c614fab05bdc4edd50e850f1afd947b503ea41cf", ChatFormat::kLlama2},
    {"7fcbb4353f3f484117a3dd8fcf597b435ab2d68cf856fd27acf69bb97c170793", ChatFormat::kLlama2},
    {"ea2472f29dbd93c3eb696795f6403228fcc4b775518869c771f83fbae5c11dbf", ChatFormat::kLlama2},
    {"218dcddb625afd8f8eda201fb8a23a5f7a05cbd64d07d66a09494f224521be3c", ChatFormat::kLlama2},
};

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

absl::StatusOr<std::optional<std::string>> find_template(const std::filesystem::path& directory) {
  auto text = read_if_there(directory / "chat_template.jinja");
  if (!text.ok() || *text) return text;
  const std::filesystem::path path = directory / "tokenizer_config.json";
  const auto config = bpe::read_side_file(path);
  if (!config.ok()) return config.status();
  const std::optional<bpe::Json>& content = *config;
  if (!content) return std::nullopt;
  return template_of(*content, path);
}

absl::StatusOr<ChatFormat> format_of_template(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);  // Jinja drops it too
  const std::string found = digest(text);
  for (const auto& [known, format] : kKnownTemplates) {
    if (found == known) return format;
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the model's chat template is not exactly one of those known as llama3 or "
                   "llama2 (its SHA-256 begins with ",
                   found.substr(0, 16), "); name the format to use one of them nevertheless"));
}

}  // namespace

absl::StatusOr<ChatFormat> find_chat_format(const std::filesystem::path& directory,
                                            const Tokenizer& tokenizer) {
  const auto found = find_template(directory);
  if (!found.ok()) return found.status();
  if (const std::optional<std::string>& text = *found) return format_of_template(*text);
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
