#include "engine/calibration/texts.h"

#include <utility>

namespace kascade {
namespace {

Texts joined(const Texts& texts, std::span<const Token> separator) {
  if (texts.empty()) return {};
  std::vector<Token> all = texts.front();
  for (size_t i = 1; i < texts.size(); ++i) {
    all.insert(all.end(), separator.begin(), separator.end());
    all.insert(all.end(), texts[i].begin(), texts[i].end());
  }
  return {std::move(all)};
}

}  // namespace

SplitTexts split(const CalibrationTexts& texts) {
  if (!texts.held_out.empty()) return {texts.texts, texts.held_out, /*is_fifth=*/false};
  SplitTexts result;
  for (const std::vector<Token>& text : texts.texts) {
    const auto held = static_cast<int64_t>(text.size() / 5);
    result.measured.emplace_back(text.begin(), text.end() - held);
    result.held_out.emplace_back(text.end() - held, text.end());
  }
  return result;
}

CalibrationTexts joined(const CalibrationTexts& texts, std::span<const Token> separator) {
  return {joined(texts.texts, separator), joined(texts.held_out, separator)};
}

int64_t count_tokens(const Texts& texts) {
  int64_t tokens = 0;
  for (const std::vector<Token>& text : texts) tokens += static_cast<int64_t>(text.size());
  return tokens;
}

}  // namespace kascade
