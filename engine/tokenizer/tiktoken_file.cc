// Reads the rank files of tiktoken.
#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/tokenizer/vocabulary.h"
#include "engine/tokenizer/vocabulary_files.h"

namespace kascade {
namespace {

constexpr size_t kLlama3Tokens = 128'000;

absl::Status bad_line(size_t line, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", what));
}

}  // namespace

absl::StatusOr<TiktokenVocabulary> parse_tiktoken(std::string_view text) {
  TiktokenVocabulary vocabulary;
  while (!text.empty()) {
    const size_t rank = vocabulary.tokens.size();
    if (rank == bpe::Vocabulary::kMaxIds) return bad_line(rank + 1, "too many tokens");
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const size_t space = line.find(' ');
    std::string bytes;
    if (space == line.npos ||
        !absl::Base64Unescape(absl::string_view(line.data(), space), &bytes)) {
      return bad_line(rank + 1, "is not \"base64 rank\"");
    }
    size_t number = 0;
    const char* last = line.data() + line.size();
    const auto result = std::from_chars(line.data() + space + 1, last, number);
    if (result.ec != std::errc() || result.ptr != last || number != rank) {
      return bad_line(rank + 1, absl::StrCat("expected rank ", rank, " behind one space"));
    }
    vocabulary.tokens.push_back(std::move(bytes));
  }
  return vocabulary;
}

absl::StatusOr<TiktokenVocabulary> parse_llama3_tiktoken(std::string_view text) {
  absl::StatusOr<TiktokenVocabulary> vocabulary = parse_tiktoken(text);
  if (!vocabulary.ok() || vocabulary->tokens.size() == kLlama3Tokens) return vocabulary;
  return absl::UnimplementedError(absl::StrCat("found ", vocabulary->tokens.size(),
                                               " ranks, supported: ", kLlama3Tokens, " (Llama 3)"));
}

absl::StatusOr<std::string> tiktoken_to_tokenizer_json(std::string_view text) {
  const absl::StatusOr<TiktokenVocabulary> vocabulary = parse_llama3_tiktoken(text);
  if (!vocabulary.ok()) return vocabulary.status();
  return to_tokenizer_json(*vocabulary);
}

}  // namespace kascade
