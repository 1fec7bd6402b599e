// Which windows of the given texts are measured, and which the quality check uses (docs/method.md).
// Pure.
#ifndef KASCADE_ENGINE_CALIBRATION_WINDOWS_H_
#define KASCADE_ENGINE_CALIBRATION_WINDOWS_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/candidates.h"
#include "engine/base/types.h"

namespace kascade {

using Texts = std::vector<std::vector<Token>>;

struct SplitTexts {
  Texts measured;
  Texts held_out;  // the last 20 % of each text
};

// INVALID_ARGUMENT when fewer than 2,048 tokens would be held out in all.
absl::StatusOr<SplitTexts> split_texts(const Texts& texts);

struct WindowSettings {
  SelectionSettings selection{};
  int32_t window_tokens = 2048;       // rows fed per window, clipped to the context
  int32_t context = 0;                // most rows of a window: the model's, or what the cache holds
  std::span<const int32_t> prefix{};  // put in front of every window (BOS)

  int32_t rows() const { return std::min(window_tokens, context); }  // of a window, at most
};

// At most 16 windows, evenly spaced over the texts, each with at least one query tile that has more
// candidates than budget, and one long window of min(context, 16,384) tokens if a text is long
// enough. INVALID_ARGUMENT naming the length needed when no text yields a window.
absl::StatusOr<Texts> measured_windows(const Texts& texts, const WindowSettings& rule);

// Some 16,384 tokens in windows of at most the same size, evenly spaced, each long enough for the
// selection to drop keys: a gate that nothing can fail would be none. INVALID_ARGUMENT when fewer
// than 1,024 tokens lie in such windows; short rests of texts lie in none.
absl::StatusOr<Texts> held_out_windows(const Texts& texts, const WindowSettings& rule);
// Some 2,048 tokens of the measured texts, evenly spaced, in windows of at most the same size: of
// several texts in as many windows, down to 512 tokens each.
Texts layer_cost_windows(const Texts& texts, const WindowSettings& rule);

int64_t count_tokens(const Texts& texts);
std::string token_digest(const Texts& texts);  // SHA-256 hex

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_WINDOWS_H_
