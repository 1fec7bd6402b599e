#include "tools/train/training_texts.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"
#include "engine/model/file.h"

namespace kascade::train {
namespace {

constexpr int64_t kMostFileBytes = int64_t{1} << 30;

absl::StatusOr<std::vector<int32_t>> encoded(const std::string& name, const std::string& content,
                                             const Tokenizer& tokenizer, int32_t vocab) {
  auto tokens = tokenizer.encode(content, {.add_special_tokens = false});
  if (!tokens.ok()) {
    return absl::Status(tokens.status().code(),
                        absl::StrCat(name, ": ", tokens.status().message()));
  }
  const auto unknown = std::ranges::find_if(*tokens, [&](int32_t id) { return id >= vocab; });
  if (unknown == tokens->end()) return tokens;
  return absl::InvalidArgumentError(absl::StrCat(name, ": has token ", *unknown,
                                                 ", but the model has ", vocab, " rows of tokens"));
}

training::TrainingText piece(std::span<const int32_t> prefix, std::span<const int32_t> tokens) {
  training::TrainingText text;
  text.tokens.assign(prefix.begin(), prefix.end());
  text.tokens.insert(text.tokens.end(), tokens.begin(), tokens.end());
  text.targets.assign(text.tokens.begin() + 1, text.tokens.end());
  text.targets.push_back(training::kNoTarget);
  return text;
}

// Pieces without overlap, whose lengths take turns; a rest that is too short is left out.
std::vector<training::TrainingText> cut(std::span<const int32_t> tokens,
                                        std::span<const int32_t> prefix,
                                        const std::vector<int32_t>& lengths) {
  std::vector<training::TrainingText> pieces;
  for (size_t begin = 0;;) {
    const auto length = static_cast<size_t>(lengths[pieces.size() % lengths.size()]);
    const size_t own = length - std::min(prefix.size(), length - 1);
    if (begin + own > tokens.size()) return pieces;
    pieces.push_back(piece(prefix, tokens.subspan(begin, own)));
    begin += own;
  }
}

// The last ones are held out, at least one.
void divide(std::vector<training::TrainingText> texts, const TextsChoice& choice,
            ChosenTexts& chosen) {
  const auto held_out = std::clamp<size_t>(
      static_cast<size_t>(std::lround(static_cast<double>(texts.size()) * choice.held_out_share)),
      1, texts.size() - 1);
  const auto first = texts.end() - static_cast<int64_t>(held_out);
  std::move(first, texts.end(), std::back_inserter(chosen.held_out));
  std::move(texts.begin(), first, std::back_inserter(chosen.training));
}

void limit(const TextsChoice& choice, ChosenTexts& chosen) {
  if (choice.most_texts > 0 && std::ssize(chosen.training) > choice.most_texts) {
    chosen.training.resize(static_cast<size_t>(choice.most_texts));
  }
  for (const training::TrainingText& text : chosen.training) {
    chosen.tokens += std::ssize(text.tokens);
  }
}

}  // namespace

absl::StatusOr<ChosenTexts> choose_texts(const std::vector<std::filesystem::path>& files,
                                         const Tokenizer& tokenizer, int32_t vocab,
                                         const TextsChoice& choice) {
  ChosenTexts chosen;
  Sha256 digest;
  const auto prefix = tokenizer.prefix_tokens();
  for (const std::filesystem::path& file : files) {
    auto content = read_file(file, kMostFileBytes);
    if (!content.ok()) return content.status();
    digest.add(*content);
    auto tokens = encoded(file.string(), *content, tokenizer, vocab);
    if (!tokens.ok()) return tokens.status();
    std::vector<training::TrainingText> pieces = cut(*tokens, prefix, choice.lengths);
    if (pieces.size() < 2) {
      return absl::InvalidArgumentError(absl::StrCat(
          file.string(), ": has ", tokens->size(), " tokens, too few for two pieces of ",
          choice.lengths.front(), " tokens: give a longer text or a smaller --max-length"));
    }
    divide(std::move(pieces), choice, chosen);
  }
  limit(choice, chosen);
  chosen.digest = digest.hex();
  return chosen;
}

absl::StatusOr<ChosenTexts> choose_questions(const std::vector<std::filesystem::path>& files,
                                             QuestionTask task, const Tokenizer& tokenizer,
                                             std::optional<ChatFormat> format,
                                             std::optional<int32_t> end,
                                             const TextsChoice& choice) {
  ChosenTexts chosen;
  Sha256 digest;
  for (const std::filesystem::path& file : files) {
    auto content = read_file(file, kMostFileBytes);
    if (!content.ok()) return content.status();
    digest.add(*content);
    auto questions = parse_questions(task, *content, file.string());
    if (!questions.ok()) return questions.status();
    if (questions->size() < 2) {
      return absl::InvalidArgumentError(absl::StrCat(
          file.string(), ": must have at least two questions, has ", questions->size()));
    }
    std::vector<training::TrainingText> texts;
    for (const Question& question : *questions) {
      auto text = question_text(question, tokenizer, format, end, choice.lengths.front());
      if (!text.ok()) {
        return absl::Status(text.status().code(),
                            absl::StrCat(file.string(), ": ", text.status().message()));
      }
      texts.push_back(*std::move(text));
    }
    divide(std::move(texts), choice, chosen);
  }
  limit(choice, chosen);
  chosen.digest = digest.hex();
  return chosen;
}

}  // namespace kascade::train
