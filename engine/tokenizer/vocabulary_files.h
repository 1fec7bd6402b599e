// Converts vocabularies that come without a tokenizer.json into one, so that there is a single
// implementation of the tokenizer: SentencePiece models (Llama 2), tiktoken ranks (Meta's Llama 3)
// and the token lists of GGUF files. The functions are pure and safe on hostile input; errors name
// the field and are INVALID_ARGUMENT for damaged or UNIMPLEMENTED for unsupported input.
#ifndef KASCADE_ENGINE_TOKENIZER_VOCABULARY_FILES_H_
#define KASCADE_ENGINE_TOKENIZER_VOCABULARY_FILES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace kascade {

// The types of a piece, with the numbers of SentencePiece and of GGUF (tokenizer.ggml.token_type).
enum class PieceType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// Byte-pair merging by score, with byte fallback; U+2581 stands for a space. A text is encoded into
// the same pieces as by SentencePiece's BPE: the two neighbours that form the piece with the
// highest score are merged first, and among equals the leftmost. The types of pieces differ as
// follows.
//  - Control pieces never come out of plain text. The unknown piece stands for characters that have
//   no piece.
//  - User-defined pieces are matched in the text as a whole. The text after such a piece is encoded
//   like a new text, as Hugging Face does. A user-defined piece that contains U+2581 is made by
//   merging only.
//  - Unused pieces never come out of any text.
struct SentencePieceVocabulary {
  struct Piece {
    std::string text{};  // valid UTF-8, not empty, at most 1,024 bytes, unique
    float score = 0;     // score of the merge that makes the piece, highest first; finite
    PieceType type = PieceType::kNormal;
  };
  // by id; either none or all 256 of the byte pieces "<0x00>" … "<0xFF>" are present
  std::vector<Piece> pieces{};
  std::optional<int32_t> bos{};
  bool add_bos = true;
  bool add_dummy_prefix = true;  // puts a space before the text
  // Removes spaces at both ends of the text and repeated spaces. Decoding does not restore them.
  bool remove_extra_whitespaces = false;
  bool escape_whitespaces = true;  // pieces contain U+2581 in place of a space
};

// Byte-level merging by rank. Tokens and merges are spelled in GPT-2's byte alphabet.
struct ByteLevelVocabulary {
  struct Token {
    std::string text{};
    PieceType type = PieceType::kNormal;
  };
  std::vector<Token> tokens{};        // by id; those of type kUnused are left out
  std::vector<std::string> merges{};  // "left right", lowest rank first
  // The pre-tokenizer, as GGUF names it (tokenizer.ggml.pre): "llama-bpe", "qwen2" and others that
  // docs/checkpoints.md lists.
  std::string pre_tokenizer{};
  std::optional<int32_t> bos{};
  bool add_bos = true;
  bool ignore_merges = false;  // a piece that is itself a token is not merged but taken whole
};

// Byte strings in the order of their ranks; the rank of a token is its id. Merges with the lowest
// rank are applied first, and among equals the leftmost. Text is pre-tokenized as for Llama 3, and
// Llama 3's 256 special tokens follow the ranks.
struct TiktokenVocabulary {
  // by rank; not empty, unique, with every single byte among them
  std::vector<std::string> tokens{};
};

// Parses SentencePiece's `tokenizer.model` (protobuf). UNIMPLEMENTED for models other than BPE, for
// a character map (normalizer "nfkc" …) and for spaces after words.
absl::StatusOr<SentencePieceVocabulary> parse_sentencepiece(std::string_view bytes);

// Parses tiktoken's lines of "base64 rank", in which the ranks are 0, 1, 2 … in this order.
absl::StatusOr<TiktokenVocabulary> parse_tiktoken(std::string_view text);

// Returns the content of a tokenizer.json that encodes and decodes in the same way. If a token can
// be made by several merges, the file has the field model.merge_ranks with one rank per merge;
// merges of equal rank are applied from left to right.
absl::StatusOr<std::string> to_tokenizer_json(const SentencePieceVocabulary& vocabulary);
absl::StatusOr<std::string> to_tokenizer_json(const ByteLevelVocabulary& vocabulary);
absl::StatusOr<std::string> to_tokenizer_json(const TiktokenVocabulary& vocabulary);

// Parses the `tokenizer.model` of Meta's Llama 3. UNIMPLEMENTED if the number of ranks is not
// 128,000. The special tokens have the names of Llama 3.1, in which 128004 is
// <|finetune_right_pad_id|>; in 3.0 it is reserved.
absl::StatusOr<TiktokenVocabulary> parse_llama3_tiktoken(std::string_view text);
absl::StatusOr<std::string> tiktoken_to_tokenizer_json(std::string_view text);

}  // namespace kascade

#endif  // KASCADE_ENGINE_TOKENIZER_VOCABULARY_FILES_H_
