// The texts of a calibration: which parts are measured, which are held out for the quality check,
// and which kinds of text the check distinguishes. All functions are pure.
#ifndef KASCADE_ENGINE_CALIBRATION_TEXTS_H_
#define KASCADE_ENGINE_CALIBRATION_TEXTS_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/base/types.h"

namespace kascade {

using Texts = std::vector<std::vector<Token>>;

// A kind of text has figures of its own in the quality check if so many of its tokens are held out.
inline constexpr int64_t kLeastTokensOfKind = 1024;
// The most kinds that the quality check distinguishes, "other" counted.
inline constexpr int64_t kMostKinds = 16;
// The kind of all texts that were given without one.
inline constexpr char kUnnamedKind[] = "text";
// Kinds that are too small for figures of their own are checked together under this name.
inline constexpr char kOtherKinds[] = "other";

// Token ids of each text, without BOS.
struct CalibrationTexts {
  Texts texts{};
  Texts held_out{};  // for the quality check; if empty, the end of each text is held out
  // The kind of each text, such as "code"; empty if they were given without kinds.
  std::vector<std::string> kinds{};           // [texts]
  std::vector<std::string> held_out_kinds{};  // [held_out]
};

struct HeldOutText {
  std::string kind{};
  std::vector<Token> tokens{};
};

struct SplitTexts {
  Texts measured{};
  std::vector<HeldOutText> held_out{};
  bool is_end = true;       // whether `held_out` is the end of each text
  bool joins_short = true;  // whether held-out texts that are shorter than a window may be joined
  // Kinds without any held-out text, because even all such kinds together have too little.
  std::vector<std::string> unchecked{};
};

// Of each text the last fifth is held out, or as many tokens as a window has (`window`), but at
// most half of the text. With `joins_short`, texts of which half is less than a window and less
// than 1,024 tokens count as one text of their kind. Without held-out texts of their own only;
// these are taken whole.
SplitTexts split(const CalibrationTexts& texts, int64_t window, bool joins_short);

// The texts of each kind as one text, with `separator` between the texts; so are those held out.
CalibrationTexts joined_by_kind(const CalibrationTexts& texts, std::span<const Token> separator);
// All texts as one without a kind; so are those held out.
CalibrationTexts joined(const CalibrationTexts& texts, std::span<const Token> separator);
// The texts as one.
std::vector<Token> joined_text(const Texts& texts, std::span<const Token> separator);

int64_t count_tokens(const Texts& texts);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_TEXTS_H_
