// Turns files into texts to train on.
#ifndef KASCADE_TOOLS_TRAIN_TRAINING_TEXTS_H_
#define KASCADE_TOOLS_TRAIN_TRAINING_TEXTS_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/training/trainer.h"
#include "tools/train/question_texts.h"

namespace kascade::train {

struct TextsChoice {
  // Tokens of a text, those that begin every text included; texts of these lengths take turns. Each
  // ≥ 2.
  std::vector<int32_t> lengths{1024};
  double held_out_share = 0.1;  // of the pieces of each file, at its end; (0, 1)
  int64_t most_texts = 0;       // from all files; 0: all
};

struct ChosenTexts {
  std::vector<training::TrainingText> training{};
  std::vector<training::TrainingText> held_out{};
  int64_t tokens = 0;    // of the training texts
  std::string digest{};  // of all files' content, in order
};

// Cuts each file into pieces without overlap; every token is predicted from those before it in its
// piece. INVALID_ARGUMENT names a file that is not UTF-8, that is too short for two pieces, or that
// has a token that the model, of `vocab` rows, does not have.
absl::StatusOr<ChosenTexts> choose_texts(const std::vector<std::filesystem::path>& files,
                                         const Tokenizer& tokenizer, int32_t vocab,
                                         const TextsChoice& choice);

// The same of files of questions, each a text of its own; the first of `choice.lengths` is the most
// tokens of a text. `format` and `end`: see question_text().
absl::StatusOr<ChosenTexts> choose_questions(const std::vector<std::filesystem::path>& files,
                                             QuestionTask task, const Tokenizer& tokenizer,
                                             std::optional<ChatFormat> format,
                                             std::optional<int32_t> end, const TextsChoice& choice);

}  // namespace kascade::train

#endif  // KASCADE_TOOLS_TRAIN_TRAINING_TEXTS_H_
