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

// Byte-pair merging by score with byte fallback; U+2581 stands for a space. The pieces of an
// encoded text are those of SentencePiece's BPE: the neighbours that together are the piece with
// the highest score merge first, then the leftmost.
//  - Control pieces never come out of plain text; the unknown one does for what has no piece.
//  - User-defined pieces are found in the text as a whole; what is behind one is encoded like a
//    text of its own, as Hugging Face does. One with U+2581 in it is made by merging only.
//  - Unused pieces never come out.
struct SentencePieceVocabulary {
  struct Piece {
    std::string text{};  // valid UTF-8, not empty, at most 1,024 bytes, unique
    float score = 0;     // of the merge that makes it: highest first; finite
    PieceType type = PieceType::kNormal;
  };
  std::vector<Piece> pieces{};  // by id; none or all 256 of the byte pieces "<0x00>" … "<0xFF>"
  std::optional<int32_t> bos{};
  bool add_bos = true;
  bool add_dummy_prefix = true;  // a space before the text
  // Leaves out spaces at both ends and beside others: such a text does not come back.
  bool remove_extra_whitespaces = false;
  bool escape_whitespaces = true;  // the pieces have U+2581 for a space
};

// Byte-level merging by rank; tokens and merges are spelled in GPT-2's byte alphabet.
struct ByteLevelVocabulary {
  struct Token {
    std::string text{};
    PieceType type = PieceType::kNormal;
  };
  std::vector<Token> tokens{};        // by id
  std::vector<std::string> merges{};  // "left right", lowest rank first
  // How text is split first, as GGUF names it (tokenizer.ggml.pre): "llama-bpe" (also "llama3",
  // "llama-v3"), "gpt-2", "smollm".
  std::string pre_tokenizer{};
  std::optional<int32_t> bos{};
  bool add_bos = true;
  bool ignore_merges = false;  // a piece that is a token as a whole is taken as it is
};

// Byte strings by rank, the lowest merges first, then the leftmost; the rank is the id. Split and
// completed as Llama 3: 256 special tokens follow.
struct TiktokenVocabulary {
  std::vector<std::string> tokens{};  // by rank; not empty, unique, every single byte among them
};

// SentencePiece's `tokenizer.model` (protobuf). UNIMPLEMENTED for models other than BPE, for a
// character map (normaliser "nfkc" …) and for spaces behind words.
absl::StatusOr<SentencePieceVocabulary> parse_sentencepiece(std::string_view bytes);

// tiktoken's lines of "base64 rank", ranks 0, 1, 2 … in this order.
absl::StatusOr<TiktokenVocabulary> parse_tiktoken(std::string_view text);

// The content of a tokenizer.json that encodes and decodes just the same. Where tokens can be made
// in several ways it has model.merge_ranks, one number per merge: equal ones go from left to right.
absl::StatusOr<std::string> to_tokenizer_json(const SentencePieceVocabulary& vocabulary);
absl::StatusOr<std::string> to_tokenizer_json(const ByteLevelVocabulary& vocabulary);
absl::StatusOr<std::string> to_tokenizer_json(const TiktokenVocabulary& vocabulary);

// Meta's `tokenizer.model` of Llama 3: UNIMPLEMENTED for another number of ranks than 128,000. The
// special tokens have the names of Llama 3.1 (128004 is <|finetune_right_pad_id|>, reserved
// in 3.0).
absl::StatusOr<TiktokenVocabulary> parse_llama3_tiktoken(std::string_view text);
absl::StatusOr<std::string> tiktoken_to_tokenizer_json(std::string_view text);

}  // namespace kascade

#endif  // KASCADE_ENGINE_TOKENIZER_VOCABULARY_FILES_H_
