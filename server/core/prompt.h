// From what a client sends, a text, token ids or a conversation, to the tokens that the engine
// gets.
#ifndef KASCADE_SERVER_CORE_PROMPT_H_
#define KASCADE_SERVER_CORE_PROMPT_H_

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "server/core/request_guard.h"

namespace kascade::core {

// Tokenizers may know tokens that the model has no row for, such as one for padding that was added
// later: the model serves, and a text that has one is refused. INVALID_ARGUMENT names `field`, the
// token and the size of the model's vocabulary.
absl::Status check_known(const Engine& engine, std::span<const Token> tokens,
                         const std::string& field);

// What a client is told about the text in `field` when the tokenizer gave the error `status` for
// it: INVALID_ARGUMENT naming the field, or `status` itself where the text is not at fault.
absl::Status text_error(const std::string& field, const absl::Status& status);

struct PromptOptions {
  // Whether the BOS token goes in front unless it is there already. Unset: texts get what the
  // tokenizer's post-processor puts in front, token ids get nothing.
  std::optional<bool> add_bos{};
  // Whether special strings in a text ("<|eot_id|>") become their token. Default false.
  std::optional<bool> parse_special_tokens{};
};

// Encodes texts and token ids, all with the same options. Immutable.
class PromptEncoder {
 public:
  // `engine` must outlive the encoder. INVALID_ARGUMENT: add_bos for a model without a BOS.
  static absl::StatusOr<PromptEncoder> create(const Engine& engine, const PromptOptions& options);

  // Both give the tokens with the BOS. A text that is complete, and is not to be continued, also
  // gets what the tokenizer puts after texts (an EOS, with add_eos_token). INVALID_ARGUMENT naming
  // `field`: text that is not UTF-8, beyond what the tokenizer's pattern can match, or with a token
  // that the model lacks; naming "field[i]": an id outside the vocabulary. OUT_OF_RANGE: the text
  // alone has more tokens than `bounds` allow. The errors of its watch are returned as they are.
  absl::StatusOr<std::vector<Token>> text(std::string_view text, const std::string& field,
                                          bool is_complete, const EncodingBounds& bounds) const;
  absl::StatusOr<std::vector<Token>> ids(std::span<const Token> ids,
                                         const std::string& field) const;
  // What text() makes of a part of a text that is encoded in parts
  // (Tokenizer::independent_prefix), and of all of them, whose tokens it gets.
  absl::StatusOr<std::vector<Token>> part(std::string_view text, const std::string& field,
                                          const EncodingBounds& bounds) const;
  void complete(std::vector<Token>& tokens) const;

  // How many tokens at the front of an encoded text are its BOS.
  size_t bos_count(const std::vector<Token>& tokens) const;
  // How many tokens at the end of a complete text are not of the text.
  size_t end_count() const { return text_end_.size(); }

 private:
  PromptEncoder(const Engine& engine, bool parse_special_tokens)
      : engine_(&engine), parse_special_tokens_(parse_special_tokens) {}

  const Engine* engine_;
  bool parse_special_tokens_;
  std::vector<Token> text_bos_;  // goes before texts
  std::vector<Token> text_end_;  // goes after complete texts
  std::vector<Token> ids_bos_;   // goes before token ids
};

// Text and tokens belong to the caller.
struct TextPrompt {
  std::string_view text{};  // UTF-8
};
struct TokenPrompt {
  std::span<const Token> tokens{};
};
// Its next message is the model's. PromptOptions have no meaning here and must be unset.
struct Conversation {
  std::vector<ChatMessage> messages{};
  std::optional<ChatFormat> format{};  // unset: the model's own
};
using Prompt = std::variant<TextPrompt, TokenPrompt, Conversation>;

struct EncodedPrompt {
  std::vector<Token> tokens{};
  bool continues_text = false;      // the prompt ends with text that the new text goes on
  std::vector<Token> end_tokens{};  // of the chat format, beside the model's own
};

// INVALID_ARGUMENT names "text", "tokens[i]", a field below "chat" or, with the reason TOO_LONG,
// "tokens": more than `max_tokens`, found out before a long text is encoded. FAILED_PRECONDITION:
// no chat format is named and the model's own is not known, or the tokenizer lacks the format's
// control tokens. The errors of the guard, which holds what the tokens take afterwards.
absl::StatusOr<EncodedPrompt> encode_prompt(const Prompt& prompt, const PromptOptions& options,
                                            const Engine& engine, RequestGuard& guard,
                                            std::optional<int64_t> max_tokens);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_PROMPT_H_
