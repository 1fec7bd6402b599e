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
  std::vector<std::string> spellings{};
  std::vector<int64_t> offsets{};
};

// INVALID_ARGUMENT names "texts", "texts[i]" or "add_bos".
absl::StatusOr<std::vector<TokenizedText>> tokenize(const Engine& engine,
                                                    std::span<const std::string_view> texts,
                                                    const PromptOptions& options, bool details);

// Bytes that form no UTF-8 are replaced by U+FFFD. Ids of the model that the tokenizer lacks add no
// text. INVALID_ARGUMENT names "tokens[i]": an id outside the model's vocabulary.
absl::StatusOr<std::string> detokenize(const Engine& engine, std::span<const Token> tokens,
                                       bool skip_special_tokens);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_TOKENS_H_
