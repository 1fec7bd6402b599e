#include "engine/calibration/windows.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"
#include "engine/calibration/similarity_recorder.h"

namespace kascade {
namespace {

constexpr int64_t kLeastHeldOutTokens = 2048;
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

}  // namespace

absl::StatusOr<SplitTexts> split_held_out(const Texts& texts) {
  SplitTexts result;
  for (const std::vector<Token>& text : texts) {
    const auto held = static_cast<int64_t>(text.size() / 5);
    result.measured.emplace_back(text.begin(), text.end() - held);
    result.held_out.emplace_back(text.end() - held, text.end());
  }
  if (const int64_t held_out = count_tokens(result.held_out); held_out < kLeastHeldOutTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "texts: ", count_tokens(texts), " tokens in all leave ", held_out,
        " held-out tokens (the last 20 % of each text); at least ", kLeastHeldOutTokens,
        " are needed, so give ", kLeastHeldOutTokens * 5, " tokens or more"));
  }
  return result;
}

absl::StatusOr<Texts> measured_windows(const Texts& texts, const WindowSettings& settings) {
  const int64_t room = text_tokens(settings.window_tokens, settings);
  const int64_t least = least_text_tokens(settings);
  const auto longest = std::ranges::max_element(texts, {}, &std::vector<Token>::size);
  const auto longest_size = static_cast<int64_t>(longest->size());
  if (std::min(room, longest_size) < least) {
    return absl::InvalidArgumentError(absl::StrCat(
        "texts: no query tile has more candidates than budget; a window of ", least,
        " tokens is needed under this selection (window_tokens ", settings.window_tokens,
        ", context ", settings.context, "), the longest text has ", longest_size, " to measure"));
  }
  Texts windows = at_most(cut(texts, room, least), kMeasuredWindows);
  const int64_t long_room = text_tokens(kLongWindow, settings);
  if (long_room > room && longest_size > room) {
    windows.emplace_back(longest->begin(), longest->begin() + std::min(longest_size, long_room));
  }
  return with_prefix(std::move(windows), settings.prefix);
}

absl::StatusOr<Texts> held_out_windows(const Texts& texts, const WindowSettings& settings) {
  const int64_t room = text_tokens(settings.window_tokens, settings);
  const int64_t least = least_text_tokens(settings);
  Texts pieces = room < least ? Texts{} : about_tokens(cut(texts, room, least), kMostCheckedTokens);
  if (const int64_t tokens = count_tokens(pieces); tokens < kLeastCheckedTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("texts: the held-out parts (the last 20 % of each text) have ", tokens,
                     " tokens in windows of at least ", least,
                     ", below which the selection drops no key; at least ", kLeastCheckedTokens,
                     " are needed, so give longer texts (", least * 5, " tokens or more each)"));
  }
  return with_prefix(std::move(pieces), settings.prefix);
}

Texts layer_cost_windows(const Texts& texts, const WindowSettings& settings) {
  const int64_t share = std::max(kLeastLayerCostWindow, kLayerCostTokens / std::ssize(texts));
  const int64_t room = std::min(text_tokens(settings.window_tokens, settings), share);
  const int64_t least = std::min(room, least_text_tokens(settings));
  return with_prefix(about_tokens(cut(texts, room, least), kLayerCostTokens), settings.prefix);
}

absl::StatusOr<CalibrationWindows> calibration_windows(const Texts& texts,
                                                       const WindowSettings& measuring,
                                                       const WindowSettings& comparing) {
  const auto parts = split_held_out(texts);
  if (!parts.ok()) return parts.status();
  CalibrationWindows windows{.measured_digest = token_digest(parts->measured),
                             .held_out_digest = token_digest(parts->held_out)};
  auto measured = measured_windows(parts->measured, measuring);
  if (!measured.ok()) return measured.status();
  windows.measured = *std::move(measured);
  windows.layer_cost = layer_cost_windows(parts->measured, comparing);
  auto held_out = held_out_windows(parts->held_out, comparing);
  if (!held_out.ok()) return held_out.status();
  windows.held_out = *std::move(held_out);
  return windows;
}

int64_t count_tokens(const Texts& texts) {
  int64_t tokens = 0;
  for (const std::vector<Token>& text : texts) tokens += static_cast<int64_t>(text.size());
  return tokens;
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
