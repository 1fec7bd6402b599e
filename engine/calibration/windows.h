// Cuts texts into the windows of a calibration (docs/method.md, "The calibration procedure"). All
// functions are pure.
#ifndef KASCADE_ENGINE_CALIBRATION_WINDOWS_H_
#define KASCADE_ENGINE_CALIBRATION_WINDOWS_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/candidates.h"
#include "engine/base/types.h"
#include "engine/calibration/texts.h"

namespace kascade {

struct WindowSettings {
  SelectionSettings selection{};
  int32_t window_tokens = 2048;       // rows of a window that were asked for
  int32_t context = 0;                // the most rows that the model and the cache allow
  std::span<const int32_t> prefix{};  // put in front of every window (BOS)
  bool long_window = true;            // whether one long window is measured, too

  int32_t rows() const { return std::min(window_tokens, context); }  // the most rows of a window
};

// Returns at most 16 windows, evenly spaced over the texts. Each has at least one query tile with
// more candidates than budget. With `long_window` one of min(context, 16,384) tokens is added if a
// text is long enough. INVALID_ARGUMENT, with what is missing, when no text yields a window.
absl::StatusOr<Texts> measured_windows(const Texts& texts, const WindowSettings& settings);

// The windows of one kind of text.
struct KindWindows {
  std::string kind{};
  Texts windows{};
};

// Returns the windows of each kind, with about 16,384 tokens in all, which the kinds share equally,
// but at least one window of each. The windows of a kind are evenly spaced. They are whole windows
// of `settings` as far as the text reaches: texts of a kind that are shorter are joined first, with
// `separator` between them, unless `texts` says otherwise, and what a text leaves is a window if it
// is at least half of one or if the text yields no other. Each is long enough for the selection to
// drop keys, because a quality check without dropped keys could not fail. INVALID_ARGUMENT, with
// what is missing, when all windows together hold fewer than 1,024 tokens.
absl::StatusOr<std::vector<KindWindows>> held_out_windows(const SplitTexts& texts,
                                                          const WindowSettings& settings,
                                                          std::span<const Token> separator);

// The longest windows that the quality check has by itself, in rows: the largest power of two, from
// 2,048 to 8,192, of which some kind has as many tokens held out.
int32_t longest_check_window(const CalibrationTexts& texts);

// Returns windows with about 2,048 tokens of the measured texts in all, evenly spaced. Where there
// are several texts, the windows are shorter, down to 512 tokens, so that all texts take part.
Texts layer_cost_windows(const Texts& texts, const WindowSettings& settings);

// All windows of one calibration, and the digests of the texts that they were cut from.
struct CalibrationWindows {
  std::string measured_digest{};
  std::string held_out_digest{};
  Texts measured{};
  Texts layer_cost{};
  std::vector<KindWindows> held_out{};
  std::vector<Token> held_out_text{};  // all held-out texts, joined
  // Kinds that have too little text to be checked, even all such kinds together.
  std::vector<std::string> unchecked_kinds{};
  // The number of texts that were joined although that was not asked for, because they are too
  // short one by one; else 0.
  int64_t joined_texts = 0;
};

// How texts become windows.
struct WindowCut {
  WindowSettings measuring{};  // of the measured windows
  WindowSettings comparing{};  // of the others, which run dense and sparse at the same time
  // Whether the texts of a kind are joined to one (texts.h). Unset: only if they are too short one
  // by one to be measured; if joined they still are, all texts are joined to one.
  std::optional<bool> join_texts{};
  std::span<const int32_t> separator{};  // between joined texts
};

// Errors are those of the functions above, of the joined texts where these are too short as well.
absl::StatusOr<CalibrationWindows> calibration_windows(const CalibrationTexts& texts,
                                                       const WindowCut& cut);

// Tokens of all windows of all kinds.
int64_t count_tokens(const std::vector<KindWindows>& kinds);
// Rows of the longest window: as far as a check on these windows reaches.
int32_t longest_rows(const std::vector<KindWindows>& kinds);

std::string token_digest(const Texts& texts);  // SHA-256 hex

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_WINDOWS_H_
