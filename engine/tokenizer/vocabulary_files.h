// Vocabularies that come without a tokenizer.json, each turned into one, so that there is a single
// tokenizer with a single reader: SentencePiece models (Llama 2), tiktoken ranks (Meta's Llama 3)
// and the token lists of GGUF files. Pure functions; safe on hostile input, errors are
// INVALID_ARGUMENT (damaged) or UNIMPLEMENTED (known, not done) and name the field.
#ifndef KASCADE_ENGINE_TOKENIZER_VOCABULARY_FILES_H_
#define KASCADE_ENGINE_TOKENIZER_VOCABULARY_FILES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace kascade {

// As SentencePiece and GGUF (tokenizer.ggml.token_type) number them.
enum class PieceType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// Byte-pair merging by score with byte fallback; U+2581 stands for a space.
struct SentencePieceVocabulary {
  struct Piece {
    std::string text{};
    float score = 0;  // of the merge that makes it: highest first
    PieceType type = PieceType::kNormal;
  };
  std::vector<Piece> pieces{};  // by id
  std::optional<int32_t> bos{};
  bool add_bos = true;
  bool add_dummy_prefix = true;  // a space before the text
};

// Byte-level merging by rank; tokens and merges are spelled in GPT-2's byte alphabet.
struct ByteLevelVocabulary {
  struct Token {
    std::string text{};
    PieceType type = PieceType::kNormal;
  };
  std::vector<Token> tokens{};        // by id
  std::vector<std::string> merges{};  // "left right", lowest rank first
  // How text is split first, as GGUF names it (tokenizer.ggml.pre): "llama-bpe", "gpt-2", "smollm"
  // …
  std::string pre_tokenizer{};
  std::optional<int32_t> bos{};
  bool add_bos = true;
  bool ignore_merges = false;  // a piece that is a token as a whole is taken as it is
};

// SentencePiece's `tokenizer.model` (protobuf).
absl::StatusOr<SentencePieceVocabulary> parse_sentencepiece(std::string_view bytes);

// The content of a tokenizer.json that encodes and decodes just the same.
absl::StatusOr<std::string> to_tokenizer_json(const SentencePieceVocabulary& vocabulary);
absl::StatusOr<std::string> to_tokenizer_json(const ByteLevelVocabulary& vocabulary);

// Meta's `tokenizer.model` of Llama 3: lines of "base64 rank"; the 256 special tokens follow.
absl::StatusOr<std::string> tiktoken_to_tokenizer_json(std::string_view text);

}  // namespace kascade

#endif  // KASCADE_ENGINE_TOKENIZER_VOCABULARY_FILES_H_
