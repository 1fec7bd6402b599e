// Files of questions with answers as texts to train on: one JSON object a line.
#ifndef KASCADE_TOOLS_TRAIN_QUESTION_TEXTS_H_
#define KASCADE_TOOLS_TRAIN_QUESTION_TEXTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/chat.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/training/trainer.h"

namespace kascade::train {

// What the fields of a line are:
//   gsm8k       question; answer: lines of reasoning, then "#### " and the result
//   asdiv-aug   the same
//   strategyqa  question; facts: a list of texts, may be missing; answer: true or false
//   aqua        question; options: a list of texts "A)…"; rationale; correct: a letter
enum class QuestionTask { kGsm8k, kAsdivAug, kStrategyQa, kAqua };
// Unset for other names.
std::optional<QuestionTask> question_task_named(std::string_view name);

struct Question {
  std::string prompt{};  // what the user says
  std::string
      answer{};  // what the model should say: a line for each step, then the result in a box
};

// INVALID_ARGUMENT names `source`, the line and the field.
absl::StatusOr<std::vector<Question>> parse_questions(QuestionTask task, std::string_view content,
                                                      const std::string& source);

// The prompt in the model's chat format (or as plain text if it has none) with the answer behind it
// and `end`, the token that ends an answer. Only the answer and its end are targets. Cut to
// `most_tokens`.
absl::StatusOr<training::TrainingText> question_text(const Question& question,
                                                     const Tokenizer& tokenizer,
                                                     std::optional<ChatFormat> format,
                                                     std::optional<int32_t> end,
                                                     int32_t most_tokens);

}  // namespace kascade::train

#endif  // KASCADE_TOOLS_TRAIN_QUESTION_TEXTS_H_
