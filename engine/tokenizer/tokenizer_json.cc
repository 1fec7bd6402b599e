#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer/bpe_tokenizer.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/tokenizer.h"

namespace kascade {
namespace {

// Real files have up to 20 MB.
constexpr uintmax_t kMaxFileBytes = 256u << 20;

absl::StatusOr<std::string> read_text(const std::filesystem::path& path) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) {
    return absl::NotFoundError(absl::StrCat(path.string(), ": ", error.message()));
  }
  if (size > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), ": ", size, " bytes, expected at most ", kMaxFileBytes));
  }
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!in.good() && !in.eof()) {
    return absl::UnavailableError(absl::StrCat(path.string(), ": cannot be read"));
  }
  return text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> open_tokenizer(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "tokenizer.json";
  const absl::StatusOr<std::string> text = read_text(path);
  if (!text.ok()) return text.status();
  auto tokenizer = parse_tokenizer_json(*text);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      absl::StrCat(path.string(), ": ", tokenizer.status().message()));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> parse_tokenizer_json(std::string_view json) {
  const absl::StatusOr<bpe::Json> value = bpe::parse_json(json);
  if (!value.ok()) return value.status();
  return bpe::BpeTokenizer::parse(*value);
}

}  // namespace kascade
