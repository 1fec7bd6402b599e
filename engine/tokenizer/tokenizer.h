// Converts between text and token ids. A tokenizer is read from a Hugging Face `tokenizer.json`, or
// from the `tokenizer.model` of Llama 2 (SentencePiece) or of Meta's Llama 3 (tiktoken). A
// Tokenizer is immutable and safe for any number of threads, such as those of RPCs; an
// IncrementalDecoder belongs to one request.
#ifndef KASCADE_ENGINE_TOKENIZER_TOKENIZER_H_
#define KASCADE_ENGINE_TOKENIZER_TOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kascade {

// Longest text that is encoded, bytes: positions in the merge loop are 32-bit.
inline constexpr size_t kMaxTextBytes = size_t{256} << 20;

// Asked again and again while a long text is encoded; by the thread that encodes.
class EncodingWatch {
 public:
  virtual ~EncodingWatch() = default;
  // Whether the encoding may go on and hold so many bytes, its result included. It is asked before
  // the memory is taken, and every 20 ms at least while texts are cut and merged. A status that is
  // not OK ends the encoding, which returns it.
  virtual absl::Status proceed(size_t bytes) = 0;
};

// When an encoding is given up. By default never.
struct EncodingBounds {
  // More tokens than this, in all, are OUT_OF_RANGE. A text that is so long that it must have more
  // is refused before it is encoded.
  size_t max_tokens = std::numeric_limits<size_t>::max();
  EncodingWatch* watch = nullptr;  // must outlive the encoding; may be null
};

struct EncodeOptions {
  // Whether encode() adds the tokens of the file's post-processor (BOS for Llama models).
  bool add_special_tokens = true;
  // Whether the spelling of a special token in the text ("<|eot_id|>") becomes that token.
  // Otherwise it is encoded as ordinary text, so that user text cannot forge control tokens.
  bool parse_special_tokens = false;
  EncodingBounds bounds{};
};

// A part of a prompt: a token, or the text between two tokens.
struct PromptPart {
  std::optional<int32_t> token{};
  std::string text{};  // UTF-8; not read if `token` is set
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Number of token ids, including those of added tokens. A model may have more rows than that
  // (tables are padded): their ids, like ids that no token has, stand for an empty text everywhere.
  virtual int32_t vocab_size() const = 0;

  // Encodes `text`. A character that the vocabulary cannot express becomes the unknown token, or is
  // dropped if there is none. INVALID_ARGUMENT for text that is not valid UTF-8; the message names
  // the byte offset. OUT_OF_RANGE and the errors of the watch: see EncodingBounds.
  virtual absl::StatusOr<std::vector<int32_t>> encode(std::string_view text,
                                                      const EncodeOptions& options) const = 0;

  // Returns the length of a prefix of `text` (valid UTF-8) that can be encoded by itself: whatever
  // text comes behind `text`, the tokens of the prefix followed by those of the rest are the tokens
  // of the whole, without prefix_tokens() and suffix_tokens(). The longest one that is known; 0
  // where none is, as for tokenizers that encode a text as one word.
  virtual size_t independent_prefix(std::string_view text) const = 0;

  // Encodes a prompt of tokens and texts: what encode() makes of the texts and of the spellings of
  // the tokens, written one behind the other, except that no text can become a special token. White
  // space that a token consumes (`lstrip` and `rstrip` in tokenizer.json) is left out, and only a
  // text at the start of the prompt counts as the start of a text. Two neighbouring texts are
  // encoded each by itself. Nothing is put around the prompt. Errors are those of encode().
  virtual absl::StatusOr<std::vector<int32_t>> encode_parts(std::span<const PromptPart> parts,
                                                            const EncodingBounds& bounds) const = 0;

  // Decodes the whole sequence. Special tokens are left out if `skip_special`. Bytes that are not
  // valid UTF-8 are replaced by U+FFFD. INVALID_ARGUMENT for a negative id; the message names the
  // id and its position.
  virtual absl::StatusOr<std::string> decode(std::span<const int32_t> ids,
                                             bool skip_special) const = 0;

  // Returns the bytes that the token adds to the text when it is not the first one. They may be a
  // part of a UTF-8 character. They are empty for special tokens and for ids without a token.
  virtual std::string_view token_bytes(int32_t id) const = 0;

  // Returns the token as the vocabulary spells it, for display ("Ġthe", "<0x0A>"); empty for ids
  // without a token.
  virtual std::string_view token_text(int32_t id) const = 0;
  virtual std::optional<int32_t> token_id(std::string_view token_text) const = 0;
  virtual bool is_special(int32_t id) const = 0;

  // Returns the tokens that encode() puts before a text if add_special_tokens is set.
  virtual std::span<const int32_t> prefix_tokens() const = 0;
  // The same for those behind a text: an EOS in tokenizers that were made for training.
  virtual std::span<const int32_t> suffix_tokens() const = 0;

  // Whether decode() drops one space at the start of the text, as SentencePiece-like tokenizers do.
  virtual bool strips_leading_space() const = 0;
};

// Returns the path of `directory`/tokenizer.json, or of `directory`/tokenizer.model if there is no
// tokenizer.json. NOT_FOUND names both.
absl::StatusOr<std::filesystem::path> find_tokenizer_file(const std::filesystem::path& directory);

// Opens the file that find_tokenizer_file() finds; its first byte tells the kind of a
// tokenizer.model. A tokenizer_config.json beside it is applied as Hugging Face's Llama tokenizers
// do. UNIMPLEMENTED, naming the field, for anything that the file asks for and this
// implementation does not support (another type of model, normalizer or pre-tokenizer, dropout …);
// INVALID_ARGUMENT for a damaged file; NOT_FOUND for a missing one.
absl::StatusOr<std::unique_ptr<Tokenizer>> open_tokenizer(const std::filesystem::path& directory);
absl::StatusOr<std::unique_ptr<Tokenizer>> parse_tokenizer_json(std::string_view json);

// Turns a stream of tokens into a stream of text that never ends inside a UTF-8 character, and
// stops at the first stop string, wherever token boundaries fall in it. The first stop string is
// the one that is complete first; of several that end at the same character it is the longest.
class IncrementalDecoder {
 public:
  struct Piece {
    std::string text;  // can be sent to the client now; may be empty
    // the stop string that ended the stream; no text comes after it
    std::optional<std::string> matched_stop{};
  };

  // `tokenizer` must outlive the decoder. The decoder holds back text that could still become a
  // stop string. `continues_text` says that the stream follows a prompt, so that a leading space is
  // kept.
  IncrementalDecoder(const Tokenizer& tokenizer, std::vector<std::string> stop_strings,
                     bool skip_special, bool include_stop_string, bool continues_text);

  // Adds one token. An id outside the vocabulary adds no text: a model may have more outputs than
  // the tokenizer has ids.
  Piece push(int32_t token);
  // Returns the text that was held back until the end of the stream. An incomplete character
  // becomes U+FFFD.
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
