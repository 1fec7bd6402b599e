// Text ↔ token ids, from a Hugging Face `tokenizer.json`, or from the `tokenizer.model` of Llama 2
// (SentencePiece) or of Meta's Llama 3 (tiktoken). Called by RPC threads; a Tokenizer is
// immutable and safe for any number of threads, an IncrementalDecoder belongs to one request.
#ifndef KASCADE_ENGINE_TOKENIZER_TOKENIZER_H_
#define KASCADE_ENGINE_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kascade {

struct EncodeOptions {
  // Whether the file's post-processor adds its tokens (BOS for Llama models).
  bool add_special_tokens = true;
  // Whether special strings in the text ("<|eot_id|>") become their token; otherwise they are
  // ordinary text, so that user text cannot forge control tokens.
  bool parse_special_tokens = false;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Number of ids, added tokens included: valid ids are [0, vocab_size()).
  virtual int32_t vocab_size() const = 0;

  // INVALID_ARGUMENT for text that is not valid UTF-8 (names the byte offset). Characters that the
  // vocabulary cannot write become its unknown token, or vanish when it has none.
  virtual absl::StatusOr<std::vector<int32_t>> encode(std::string_view text,
                                                      const EncodeOptions& options) const = 0;

  // The bytes of the whole sequence as text. Special tokens are left out when `skip_special`.
  // INVALID_ARGUMENT names an id outside the vocabulary and its position. Bytes that form no valid
  // UTF-8 are replaced by U+FFFD.
  virtual absl::StatusOr<std::string> decode(std::span<const int32_t> ids,
                                             bool skip_special) const = 0;

  // The raw bytes that one token adds to the text when it is not the first one; empty for special
  // tokens and ids that no token has. May be a part of a UTF-8 character. CHECKs that the id is
  // in [0, vocab_size()).
  virtual std::string_view token_bytes(int32_t id) const = 0;

  // The token as the vocabulary spells it, for display ("Ġthe", "<0x0A>").
  virtual std::string_view token_text(int32_t id) const = 0;
  virtual std::optional<int32_t> token_id(std::string_view token_text) const = 0;
  virtual bool is_special(int32_t id) const = 0;

  // The tokens that encode() puts in front of a text when asked for special tokens.
  virtual std::span<const int32_t> prefix_tokens() const = 0;

  // What decode() strips from the start of a text: a SentencePiece-like tokenizer drops one space.
  virtual bool strips_leading_space() const = 0;
};

// DIR/tokenizer.json, or DIR/tokenizer.model where there is none; NOT_FOUND names both.
absl::StatusOr<std::filesystem::path> find_tokenizer_file(const std::filesystem::path& directory);

// Opens that file; the kind of a tokenizer.model is told by its first byte. Whatever the file asks
// for and this code does not do (another model kind, normaliser, pre-tokenizer, dropout …) is
// refused here by name: UNIMPLEMENTED; a damaged file is INVALID_ARGUMENT; a missing one NOT_FOUND.
absl::StatusOr<std::unique_ptr<Tokenizer>> open_tokenizer(const std::filesystem::path& directory);
absl::StatusOr<std::unique_ptr<Tokenizer>> parse_tokenizer_json(std::string_view json);

// Turns a stream of tokens into a stream of text that never ends inside a UTF-8 character, and
// stops at the first stop string, wherever token borders fall in it: the one that is complete
// first; of several that end at the same character, the longest.
class IncrementalDecoder {
 public:
  struct Piece {
    std::string text;                           // safe to send now; may be empty
    std::optional<std::string> matched_stop{};  // set once; nothing comes after it
  };

  // `tokenizer` must outlive the decoder. Text that could still become a stop string is held back.
  // `continues_text`: the stream follows a prompt, so a leading space is kept.
  IncrementalDecoder(const Tokenizer& tokenizer, std::vector<std::string> stop_strings,
                     bool skip_special, bool include_stop_string, bool continues_text);

  // An id outside the vocabulary is no text: a model may have more outputs than there are ids.
  Piece push(int32_t token);
  // What was held back, at the end of the stream; half a character becomes U+FFFD.
  std::string finish();

 private:
  Piece release(bool at_end);

  const Tokenizer& tokenizer_;
  std::vector<std::string> stop_strings_;
  bool skip_special_;
  bool include_stop_string_;
  bool strip_next_space_;
  bool stopped_ = false;
  std::string cut_character_;  // the bytes of a character that is not complete yet
  std::string pending_;        // text that could become a stop string
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_TOKENIZER_TOKENIZER_H_
