// The texts of a calibration: which parts are measured and which are held out for the quality
// check. All functions are pure.
#ifndef KASCADE_ENGINE_CALIBRATION_TEXTS_H_
#define KASCADE_ENGINE_CALIBRATION_TEXTS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/types.h"

namespace kascade {

using Texts = std::vector<std::vector<Token>>;

// Token ids of each text, without BOS.
struct CalibrationTexts {
  Texts texts{};
  Texts held_out{};  // for the quality check; if empty, the last 20 % of each text are held out
};

struct SplitTexts {
  Texts measured{};
  Texts held_out{};
  bool is_fifth = true;  // whether `held_out` is the last 20 % of each text
};

SplitTexts split(const CalibrationTexts& texts);

// `texts` and `held_out` each as one text, with `separator` between the texts.
CalibrationTexts joined(const CalibrationTexts& texts, std::span<const Token> separator);

int64_t count_tokens(const Texts& texts);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_TEXTS_H_
