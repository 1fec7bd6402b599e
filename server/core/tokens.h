// Texts to tokens and back, for clients that want just that.
#ifndef KASCADE_SERVER_CORE_TOKENS_H_
#define KASCADE_SERVER_CORE_TOKENS_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "server/core/prompt.h"

namespace kascade::core {

struct TokenizedText {
  std::vector<Token> tokens{};  // BOS included
  // Only with details: as the vocabulary spells the tokens, and where each begins in the text
  // [bytes]. Offsets are empty where the tokenizer's normalisation makes them unknown.
  std::vector<std::string_view> spellings{};  // the tokenizer's
  std::vector<int64_t> offsets{};
};

struct TokenizationRequest {
  std::span<const std::string_view> texts{};  // 1 to 4,096
  PromptOptions options{};
  bool details = false;
  // Most bytes that the result may have as a message of the API; see TokenizeResponse.
  int64_t max_reply_bytes = 0;
};

// INVALID_ARGUMENT names "texts", "texts[i]" or "add_bos"; with the reason TOO_LONG: the reply
// would have more than max_reply_bytes, found out before a long text is encoded. The errors of the
// guard, which then holds what the result and the reply made of it take together.
absl::StatusOr<std::vector<TokenizedText>> tokenize(const Engine& engine,
                                                    const TokenizationRequest& request,
                                                    RequestGuard& guard);

// Bytes that form no UTF-8 are replaced by U+FFFD. Ids of the model that the tokenizer lacks add no
// text. INVALID_ARGUMENT names "tokens[i]": an id outside the model's vocabulary; or, with the
// reason TOO_LONG, "tokens": the text has more than `max_reply_bytes`. The errors of the guard,
// which then holds what the text and the reply made of it take.
absl::StatusOr<std::string> detokenize(const Engine& engine, std::span<const Token> tokens,
                                       bool skip_special_tokens, int64_t max_reply_bytes,
                                       RequestGuard& guard);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_TOKENS_H_
