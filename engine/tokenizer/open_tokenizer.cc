#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer/bpe_tokenizer.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/side_files.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocabulary_files.h"
#include "engine/tokenizer/vocabulary_json.h"

namespace kascade {
namespace {

// Limit for the size of a file; real ones have up to 20 MB.
constexpr uintmax_t kMaxFileBytes = 256u << 20;

constexpr const char* kJsonName = "tokenizer.json";
constexpr const char* kModelName = "tokenizer.model";
// A SentencePiece file starts with the key of its first piece. No line of base64 starts with this
// byte.
constexpr char kSentencePieceStart = 0x0A;

absl::StatusOr<std::string> read_bytes(const std::filesystem::path& path) {
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

absl::Status in_file(const std::filesystem::path& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path.string(), ": ", status.message()));
}

// Converts the content of a vocabulary file to the JSON value from which a tokenizer is made.
absl::StatusOr<bpe::Json> vocabulary_json(std::string_view bytes) {
  if (bytes.starts_with(kSentencePieceStart)) {
    const auto vocabulary = parse_sentencepiece(bytes);
    if (!vocabulary.ok()) return vocabulary.status();
    return bpe::tokenizer_json_of(*vocabulary);
  }
  const auto vocabulary = parse_llama3_tiktoken(bytes);
  if (!vocabulary.ok()) return vocabulary.status();
  return bpe::tokenizer_json_of(*vocabulary);
}

}  // namespace

absl::StatusOr<std::filesystem::path> find_tokenizer_file(const std::filesystem::path& directory) {
  for (const char* name : {kJsonName, kModelName}) {
    std::error_code error;
    if (std::filesystem::exists(directory / name, error)) return directory / name;
  }
  return absl::NotFoundError(
      absl::StrCat(directory.string(), ": has neither ", kJsonName, " nor ", kModelName));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> open_tokenizer(const std::filesystem::path& directory) {
  const absl::StatusOr<std::filesystem::path> path = find_tokenizer_file(directory);
  if (!path.ok()) return path.status();
  const absl::StatusOr<std::string> bytes = read_bytes(*path);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<bpe::Json> json =
      path->filename() == kJsonName ? bpe::parse_json(*bytes) : vocabulary_json(*bytes);
  if (!json.ok()) return in_file(*path, json.status());
  if (auto status = bpe::apply_tokenizer_config(directory, *json); !status.ok()) return status;
  auto tokenizer = bpe::BpeTokenizer::parse(*json);
  if (!tokenizer.ok()) return in_file(*path, tokenizer.status());
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> parse_tokenizer_json(std::string_view json) {
  const absl::StatusOr<bpe::Json> value = bpe::parse_json(json);
  if (!value.ok()) return value.status();
  return bpe::BpeTokenizer::parse(*value);
}

}  // namespace kascade
