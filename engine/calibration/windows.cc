#include "engine/calibration/windows.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"
#include "engine/base/refusal.h"
#include "engine/calibration/similarity_recorder.h"

namespace kascade {
namespace {

constexpr int64_t kLeastCheckedTokens = 1024;
constexpr int64_t kMostCheckedTokens = 16384;
constexpr int64_t kLayerCostTokens = 2048;
constexpr int64_t kLeastLayerCostWindow = 512;
constexpr int32_t kMeasuredWindows = 16;
constexpr int32_t kLongWindow = 16384;

// Cuts each text into pieces of `tokens` tokens. The rest of a text is a piece, too, if it has at
// least `least` tokens.
Texts cut(const Texts& texts, int64_t tokens, int64_t least) {
  Texts pieces;
  for (const std::vector<Token>& text : texts) {
    const auto size = static_cast<int64_t>(text.size());
    for (int64_t begin = 0; size - begin >= least; begin += tokens) {
      pieces.emplace_back(text.begin() + begin, text.begin() + std::min(size, begin + tokens));
    }
  }
  return pieces;
}

// At most `most` of the pieces, evenly spaced.
Texts at_most(Texts pieces, int64_t most) {
  const auto all = static_cast<int64_t>(pieces.size());
  if (all <= most) return pieces;
  Texts kept;
  for (int64_t i = 0; i < most; ++i) kept.push_back(std::move(pieces[i * all / most]));
  return kept;
}

// Pieces with about `most` tokens in all, evenly spaced. A piece is kept if, of the tokens before
// it, no more than the wanted share was kept; so the first one always is.
Texts about_tokens(Texts pieces, int64_t most) {
  const int64_t all = count_tokens(pieces);
  if (all <= most) return pieces;
  Texts kept;
  int64_t seen = 0, taken = 0;
  for (std::vector<Token>& piece : pieces) {
    const auto size = static_cast<int64_t>(piece.size());
    const bool keeps = taken * all <= seen * most;
    seen += size;
    if (!keeps) continue;
    taken += size;
    kept.push_back(std::move(piece));
  }
  return kept;
}

Texts with_prefix(Texts pieces, std::span<const int32_t> prefix) {
  for (std::vector<Token>& piece : pieces)
    piece.insert(piece.begin(), prefix.begin(), prefix.end());
  return pieces;
}

// Tokens of text in a window of `rows` rows. The last token of a window is only predicted and needs
// no row; the prefix needs rows and is no text.
int64_t text_tokens_in(int32_t rows, const WindowSettings& settings) {
  return rows + 1 - static_cast<int64_t>(settings.prefix.size());
}

// Tokens of text in the longest window that is allowed to have `rows` rows.
int64_t text_tokens(int32_t rows, const WindowSettings& settings) {
  return text_tokens_in(std::min(rows, settings.context), settings);
}

// Tokens of text in the shortest window that holds one full tile with more candidates than budget.
int64_t least_text_tokens(const WindowSettings& settings) {
  const int32_t tile = settings.selection.query_tile;
  int32_t rows = tile;
  while (rows <= settings.context && sampled_tiles(settings.selection, rows).empty()) rows += tile;
  return text_tokens_in(rows, settings);
}

// The error where even a whole window of `settings` would drop no key.
absl::Status window_too_small(int64_t least, const WindowSettings& settings) {
  if (least <= text_tokens_in(settings.context, settings)) {
    return invalid_field("window_tokens", absl::StrCat("must be at least ", least,
                                                       " for this selection to drop keys, is ",
                                                       settings.window_tokens));
  }
  const SelectionSettings& selection = settings.selection;
  const bool takes_all =
      selection.mass > 0 ? selection.mass >= 1 && selection.max_ratio >= 1 : selection.ratio >= 1;
  const char* field = selection.family == Family::kTile ? "top_k"
                      : !takes_all                      ? "min_keys"
                      : selection.mass > 0              ? "mass"
                                                        : "ratio";
  return invalid_field(
      field, absl::StrCat("no query has more candidates than budget within ", settings.context,
                          " tokens, the most that context and cache allow; "
                          "choose fewer keys"));
}

// What a user can do about `tokens` missing tokens of text. A word has some 1.3 tokens in most
// vocabularies.
std::string words_to_add(int64_t tokens) {
  return absl::StrCat("add ", tokens, " tokens or more, about ", (tokens * 3 + 3) / 4, " words");
}

absl::StatusOr<CalibrationWindows> cut_windows(const SplitTexts& texts, const WindowCut& cut) {
  CalibrationWindows windows{.measured_digest = token_digest(texts.measured),
                             .held_out_digest = token_digest(texts.held_out)};
  // Text for the quality check runs out first, so that its error names all that is missing.
  auto held_out = held_out_windows(texts, cut.comparing);
  if (!held_out.ok()) return held_out.status();
  windows.held_out = *std::move(held_out);
  auto measured = measured_windows(texts.measured, cut.measuring);
  if (!measured.ok()) return measured.status();
  windows.measured = *std::move(measured);
  windows.layer_cost = layer_cost_windows(texts.measured, cut.comparing);
  return windows;
}

}  // namespace

absl::StatusOr<Texts> measured_windows(const Texts& texts, const WindowSettings& settings) {
  const int64_t room = text_tokens(settings.window_tokens, settings);
  const int64_t least = least_text_tokens(settings);
  if (room < least) return window_too_small(least, settings);
  const auto longest = std::ranges::max_element(texts, {}, &std::vector<Token>::size);
  const auto longest_size = static_cast<int64_t>(longest->size());
  if (longest_size < least) {
    return absl::InvalidArgumentError(
        absl::StrCat("texts: a window needs at least ", least,
                     " tokens for this selection to drop keys, the longest text has ", longest_size,
                     " to measure; ", words_to_add(least - longest_size)));
  }
  Texts windows = at_most(cut(texts, room, least), kMeasuredWindows);
  const int64_t long_room = text_tokens(kLongWindow, settings);
  if (settings.long_window && long_room > room && longest_size > room) {
    windows.emplace_back(longest->begin(), longest->begin() + std::min(longest_size, long_room));
  }
  return with_prefix(std::move(windows), settings.prefix);
}

absl::StatusOr<Texts> held_out_windows(const SplitTexts& texts, const WindowSettings& settings) {
  const int64_t room = text_tokens(settings.window_tokens, settings);
  const int64_t least = least_text_tokens(settings);
  if (room < least) return window_too_small(least, settings);
  Texts pieces = about_tokens(cut(texts.held_out, room, least), kMostCheckedTokens);
  if (const int64_t tokens = count_tokens(pieces); tokens < kLeastCheckedTokens) {
    const int64_t missing = kLeastCheckedTokens - tokens;
    return absl::InvalidArgumentError(absl::StrCat(
        texts.is_fifth ? "texts: the held-out parts (the last 20 % of each text)"
                       : "held_out_texts: the texts",
        " have ", tokens, " tokens in windows of at least ", least,
        " tokens, below which the selection drops no key; the quality check needs at least ",
        kLeastCheckedTokens, "; ", words_to_add(texts.is_fifth ? 5 * missing : missing)));
  }
  return with_prefix(std::move(pieces), settings.prefix);
}

Texts layer_cost_windows(const Texts& texts, const WindowSettings& settings) {
  const int64_t share = std::max(kLeastLayerCostWindow, kLayerCostTokens / std::ssize(texts));
  const int64_t room = std::min(text_tokens(settings.window_tokens, settings), share);
  const int64_t least = std::min(room, least_text_tokens(settings));
  return with_prefix(about_tokens(cut(texts, room, least), kLayerCostTokens), settings.prefix);
}

absl::StatusOr<CalibrationWindows> calibration_windows(const CalibrationTexts& texts,
                                                       const WindowCut& cut) {
  absl::Status one_by_one;
  if (!cut.join_texts.value_or(false)) {
    auto windows = cut_windows(split(texts), cut);
    if (windows.ok() || cut.join_texts) return windows;
    one_by_one = windows.status();
  }
  auto windows = cut_windows(split(joined(texts, cut.separator)), cut);
  if (windows.ok() && !one_by_one.ok()) windows->joined_texts = std::ssize(texts.texts);
  return windows;
}

std::string token_digest(const Texts& texts) {
  std::string bytes;
  for (const std::vector<Token>& text : texts) {
    const auto size = static_cast<uint64_t>(text.size());
    bytes.append(reinterpret_cast<const char*>(&size), sizeof(size));
    bytes.append(reinterpret_cast<const char*>(text.data()), text.size() * sizeof(Token));
  }
  return digest(bytes);
}

}  // namespace kascade
