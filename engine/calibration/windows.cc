#include "engine/calibration/windows.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"
#include "engine/base/refusal.h"
#include "engine/calibration/similarity_recorder.h"

namespace kascade {
namespace {

constexpr int64_t kLeastCheckedTokens = kLeastTokensOfKind;
constexpr int64_t kMostCheckedTokens = 16384;
constexpr int64_t kLayerCostTokens = 2048;
constexpr int64_t kLeastLayerCostWindow = 512;
constexpr int32_t kMeasuredWindows = 16;
constexpr int32_t kLongWindow = 16384;
constexpr int32_t kLeastCheckWindow = 2048, kMostCheckWindow = 8192;

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

// Cuts a held-out text into whole windows of `room` tokens. What is left is a window if it has half
// of that, or if there is no whole window.
void cut_held_out(const std::vector<Token>& text, int64_t room, int64_t least, Texts& windows) {
  const auto size = static_cast<int64_t>(text.size());
  const int64_t least_rest = size < room ? least : std::max(least, room / 2);
  Texts pieces = cut({text}, room, least_rest);
  std::ranges::move(pieces, std::back_inserter(windows));
}

// All windows of each kind, in the order in which the kinds begin.
std::vector<KindWindows> cut_kinds(const SplitTexts& texts, int64_t room, int64_t least,
                                   std::span<const Token> separator) {
  std::vector<KindWindows> kinds;
  std::vector<Texts> short_texts;  // [kinds]
  for (const HeldOutText& text : texts.held_out) {
    auto kind = std::ranges::find(kinds, text.kind, &KindWindows::kind);
    const auto index = static_cast<size_t>(kind - kinds.begin());
    if (kind == kinds.end()) {
      kinds.push_back({.kind = text.kind});
      short_texts.emplace_back();
    }
    if (texts.joins_short && std::ssize(text.tokens) < room) {
      short_texts[index].push_back(text.tokens);
    } else {
      cut_held_out(text.tokens, room, least, kinds[index].windows);
    }
  }
  for (size_t i = 0; i < kinds.size(); ++i) {
    cut_held_out(joined_text(short_texts[i], separator), room, least, kinds[i].windows);
  }
  std::erase_if(kinds, [](const KindWindows& kind) { return kind.windows.empty(); });
  return kinds;
}

// Leaves about `most` tokens in all. The kinds share them equally, except that a kind with less
// than its share leaves the rest to the others.
void limit_tokens(std::vector<KindWindows>& kinds, int64_t most) {
  std::vector<KindWindows*> ascending;
  for (KindWindows& kind : kinds) ascending.push_back(&kind);
  std::ranges::stable_sort(ascending, {},
                           [](const KindWindows* kind) { return count_tokens(kind->windows); });
  for (size_t i = 0; i < ascending.size(); ++i) {
    const int64_t share =
        std::max<int64_t>(most, 0) / (std::ssize(ascending) - static_cast<int64_t>(i));
    Texts& windows = ascending[i]->windows;
    windows = about_tokens(std::move(windows), share);
    most -= count_tokens(windows);
  }
}

absl::StatusOr<CalibrationWindows> cut_windows(const CalibrationTexts& all, const WindowCut& cut) {
  const int64_t room = text_tokens(cut.comparing.window_tokens, cut.comparing);
  const SplitTexts texts = split(all, room, cut.join_texts.value_or(true));
  Texts held_out_texts;
  for (const HeldOutText& text : texts.held_out) held_out_texts.push_back(text.tokens);
  CalibrationWindows windows{.measured_digest = token_digest(texts.measured),
                             .held_out_digest = token_digest(held_out_texts),
                             .held_out_text = joined_text(held_out_texts, cut.separator),
                             .unchecked_kinds = texts.unchecked};
  // Text for the quality check runs out first, so that its error names all that is missing.
  auto held_out = held_out_windows(texts, cut.comparing, cut.separator);
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

absl::StatusOr<std::vector<KindWindows>> held_out_windows(const SplitTexts& texts,
                                                          const WindowSettings& settings,
                                                          std::span<const Token> separator) {
  const int64_t room = text_tokens(settings.window_tokens, settings);
  const int64_t least = least_text_tokens(settings);
  if (room < least) return window_too_small(least, settings);
  std::vector<KindWindows> kinds = cut_kinds(texts, room, least, separator);
  if (const int64_t tokens = count_tokens(kinds); tokens < kLeastCheckedTokens) {
    const int64_t missing = kLeastCheckedTokens - tokens;
    // Half of a text that is shorter than two windows is held out, and a fifth of a long one.
    const int64_t share = room >= kLeastCheckedTokens ? 2 : 5;
    return absl::InvalidArgumentError(absl::StrCat(
        texts.is_end ? "texts: the held-out parts (the end of each text)"
                     : "held_out_texts: the texts",
        " have ", tokens, " tokens in windows of at least ", least,
        " tokens, below which the selection drops no key; the quality check needs at least ",
        kLeastCheckedTokens, "; ", words_to_add(texts.is_end ? share * missing : missing)));
  }
  limit_tokens(kinds, kMostCheckedTokens);
  for (KindWindows& kind : kinds) {
    kind.windows = with_prefix(std::move(kind.windows), settings.prefix);
  }
  return kinds;
}

int32_t longest_check_window(const CalibrationTexts& texts) {
  const bool is_end = texts.held_out.empty();
  const Texts& all = is_end ? texts.texts : texts.held_out;
  const std::vector<std::string>& kinds = is_end ? texts.kinds : texts.held_out_kinds;
  std::map<std::string, int64_t> tokens;
  for (size_t i = 0; i < all.size(); ++i) {
    // split() holds out at most half of a text.
    tokens[kinds.empty() ? "" : kinds[i]] += std::ssize(all[i]) / (is_end ? 2 : 1);
  }
  int64_t most = 0;
  for (const auto& [kind, of_kind] : tokens) most = std::max(most, of_kind);
  int32_t rows = kLeastCheckWindow;
  while (2 * rows <= std::min<int64_t>(most, kMostCheckWindow)) rows *= 2;
  return rows;
}

Texts layer_cost_windows(const Texts& texts, const WindowSettings& settings) {
  const int64_t share = std::max(kLeastLayerCostWindow, kLayerCostTokens / std::ssize(texts));
  const int64_t room = std::min(text_tokens(settings.window_tokens, settings), share);
  const int64_t least = std::min(room, least_text_tokens(settings));
  return with_prefix(about_tokens(cut(texts, room, least), kLayerCostTokens), settings.prefix);
}

absl::StatusOr<CalibrationWindows> calibration_windows(const CalibrationTexts& texts,
                                                       const WindowCut& cut) {
  if (cut.join_texts) {
    return cut_windows(*cut.join_texts ? joined_by_kind(texts, cut.separator) : texts, cut);
  }
  auto windows = cut_windows(texts, cut);
  if (windows.ok()) return windows;
  windows = cut_windows(joined_by_kind(texts, cut.separator), cut);
  if (!windows.ok() && !texts.kinds.empty()) {
    windows = cut_windows(joined(texts, cut.separator), cut);
  }
  if (windows.ok()) windows->joined_texts = std::ssize(texts.texts);
  return windows;
}

int64_t count_tokens(const std::vector<KindWindows>& kinds) {
  int64_t tokens = 0;
  for (const KindWindows& kind : kinds) tokens += count_tokens(kind.windows);
  return tokens;
}

int32_t longest_rows(const std::vector<KindWindows>& kinds) {
  int64_t rows = 0;
  for (const KindWindows& kind : kinds) {
    for (const std::vector<Token>& window : kind.windows) {
      rows = std::max<int64_t>(rows, std::ssize(window) - 1);
    }
  }
  return static_cast<int32_t>(rows);
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
