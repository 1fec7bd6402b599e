// Questions that test retrieval over a long context, made from a user's own text: pass keys are
// hidden in held-out text, and a question at the end asks for one of them (docs/method.md,
// "Retrieval"). All functions are pure.
#ifndef KASCADE_ENGINE_CALIBRATION_PASS_KEYS_H_
#define KASCADE_ENGINE_CALIBRATION_PASS_KEYS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/types.h"
#include "engine/tokenizer/chat.h"
#include "engine/tokenizer/tokenizer.h"

namespace kascade {

// A prompt with the right answer behind it.
struct Question {
  std::vector<Token> tokens{};
  int32_t answer_begin = 0;  // index in `tokens` of the first token of the answer; ≥ 1
};

struct QuestionsOfLength {
  int32_t tokens = 0;  // of each question, its answer included
  std::vector<Question> questions{};
};

struct PassKeySettings {
  int32_t most_tokens = 0;     // longest question that the model and the cache allow
  int32_t least_tokens = 256;  // shorter questions are not asked
  int64_t tokens = 0;          // of all questions together, about
  // Questions are asked in a chat of this format; unset: in running text that ends where the answer
  // begins.
  std::optional<ChatFormat> chat_format{};
};

// Returns questions of the longest length that settings and text allow, of half of that, and so on
// down to 1,024 tokens; in ascending order. Each length has an equal share of all tokens, at least
// 4 questions and at most 20. Every second question hides one key, the others four. They depend on
// the text, the tokenizer and the settings only. Empty if the text is too short for any. Errors of
// the tokenizer pass through.
absl::StatusOr<std::vector<QuestionsOfLength>> pass_key_questions(const Tokenizer& tokenizer,
                                                                  std::span<const Token> text,
                                                                  const PassKeySettings& settings);

// Tokens of all questions of all lengths.
int64_t count_tokens(const std::vector<QuestionsOfLength>& lengths);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_PASS_KEYS_H_
