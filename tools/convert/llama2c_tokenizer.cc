#include "tools/convert/llama2c_tokenizer.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "engine/model/file.h"
#include "engine/model/json.h"

namespace kascade::convert {
namespace {

constexpr int64_t kMaxBytes = 64 << 20;
constexpr size_t kMaxPieces = 1 << 20;

// The first tokens of every Llama vocabulary.
constexpr size_t kUnknown = 0;
constexpr size_t kBos = 1;
constexpr size_t kEos = 2;
constexpr size_t kFirstByte = 3;
constexpr size_t kFirstNormal = kFirstByte + 256;

absl::Status invalid(const std::string& file, const std::string& fault) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", fault));
}

std::string byte_piece(size_t byte) { return absl::StrFormat("<0x%02X>", byte); }

// Returns the piece as SentencePiece spells it. llama2.c stores <s> and </s> with line feeds around
// them, and U+2581 as the space that it stands for.
SentencePieceVocabulary::Piece original_piece(size_t id, std::string text, float score) {
  if (id == kUnknown) return {std::move(text), score, PieceType::kUnknown};
  if (id == kBos || id == kEos) {
    return {id == kBos ? "<s>" : "</s>", score, PieceType::kControl};
  }
  if (id < kFirstNormal) return {std::move(text), score, PieceType::kByte};
  return {absl::StrReplaceAll(text, {{" ", "\u2581"}}), score, PieceType::kNormal};
}

// Checks for a Llama vocabulary. The file has no types, so other vocabularies could not be
// interpreted.
absl::Status check_text(const std::string& file, size_t id, const std::string& text) {
  std::string expected = text;
  if (id == kBos) expected = "\n<s>\n";
  if (id == kEos) expected = "\n</s>\n";
  if (id >= kFirstByte && id < kFirstNormal) expected = byte_piece(id - kFirstByte);
  if (text == expected) return absl::OkStatus();
  return invalid(file, absl::StrCat("token ", id, ": expected ", shown(expected),
                                    " as in every Llama vocabulary, found ", shown(text)));
}

absl::StatusOr<SentencePieceVocabulary> open_vocabulary(const std::filesystem::path& file) {
  const auto content = read_file(file, kMaxBytes);
  if (!content.ok()) return content.status();
  if (file.extension() == ".bin") return parse_tokenizer_bin(*content, file.string());
  return parse_sentencepiece(*content);
}

absl::StatusOr<SideFile> side_file_of(const std::filesystem::path& file,
                                      const SentencePieceVocabulary& vocabulary) {
  if (file.extension() == ".model") return SideFile{.name = "tokenizer.model", .copy_of = file};
  auto json = to_tokenizer_json(vocabulary);
  if (json.ok()) return SideFile{.name = "tokenizer.json", .content = *std::move(json)};
  return absl::Status(json.status().code(),
                      absl::StrCat(file.string(), ": ", json.status().message()));
}

}  // namespace

absl::StatusOr<SentencePieceVocabulary> parse_tokenizer_bin(std::string_view bytes,
                                                            const std::string& name) {
  constexpr size_t kLongestPiece = 4;  // the length of the longest piece, which is not needed
  constexpr size_t kEntry = 8;         // score and length, which precede the text
  if (bytes.size() < kLongestPiece) {
    return invalid(name, absl::StrCat("expected at least 4 bytes, found ", bytes.size()));
  }
  SentencePieceVocabulary vocabulary;
  for (size_t position = kLongestPiece; position < bytes.size();) {
    const size_t id = vocabulary.pieces.size();
    const size_t left = bytes.size() - position;
    if (id == kMaxPieces) return invalid(name, absl::StrCat("more than ", kMaxPieces, " tokens"));
    float score = 0;
    int32_t length = -1;
    if (left >= kEntry) {
      std::memcpy(&score, bytes.data() + position, sizeof(score));
      std::memcpy(&length, bytes.data() + position + sizeof(score), sizeof(length));
    }
    if (length < 0 || static_cast<size_t>(length) > left - kEntry) {
      return invalid(name, absl::StrCat("token ", id, " at byte ", position,
                                        ": expected a score, a length and a text in the ", left,
                                        " bytes left, found length ", length));
    }
    std::string text(bytes.substr(position + kEntry, static_cast<size_t>(length)));
    if (auto status = check_text(name, id, text); !status.ok()) return status;
    vocabulary.pieces.push_back(original_piece(id, std::move(text), score));
    position += kEntry + static_cast<size_t>(length);
  }
  if (vocabulary.pieces.size() < kFirstNormal) {
    return invalid(name, absl::StrCat("expected at least ", kFirstNormal, " tokens, found ",
                                      vocabulary.pieces.size()));
  }
  vocabulary.bos = static_cast<int32_t>(kBos);
  return vocabulary;
}

absl::StatusOr<Llama2cTokenizer> find_llama2c_tokenizer(const std::filesystem::path& folder,
                                                        int32_t vocab) {
  const std::string own = absl::StrCat("tok", vocab);
  std::string found;
  for (const std::string& name : {std::string("tokenizer.model"), own + ".model",
                                  std::string("tokenizer.bin"), own + ".bin"}) {
    const auto file = folder / name;
    const auto vocabulary = open_vocabulary(file);
    if (absl::IsNotFound(vocabulary.status())) continue;
    if (!vocabulary.ok()) {
      absl::StrAppend(&found, found.empty() ? "" : "; ", name, ": ", vocabulary.status().message());
      continue;
    }
    if (vocabulary->pieces.size() == static_cast<size_t>(vocab)) {
      auto side_file = side_file_of(file, *vocabulary);
      if (!side_file.ok()) return side_file.status();
      return Llama2cTokenizer{.file = file, .side_file = *std::move(side_file)};
    }
    absl::StrAppend(&found, found.empty() ? "" : "; ", name, " has ", vocabulary->pieces.size(),
                    " pieces");
  }
  return invalid(folder.string(),
                 absl::StrCat("expected a tokenizer of ", vocab, " pieces beside the checkpoint (",
                              "tokenizer.model, ", own, ".model, tokenizer.bin or ", own,
                              ".bin), found ", found.empty() ? "none" : found));
}

}  // namespace kascade::convert
