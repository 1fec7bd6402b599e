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
constexpr int64_t kLeastGateTokens = 1024;
constexpr int64_t kMostGateTokens = 16384;
constexpr int64_t kWeighingTokens = 2048;
constexpr int64_t kLeastWeighingWindow = 512;
constexpr int32_t kMeasuredWindows = 16;
constexpr int32_t kLongWindow = 16384;

// Cuts texts into pieces of `tokens`; a shorter rest is kept from `least` tokens on.
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

// At most so many pieces, evenly spaced.
Texts at_most(Texts pieces, int64_t most) {
  const auto all = static_cast<int64_t>(pieces.size());
  if (all <= most) return pieces;
  Texts kept;
  for (int64_t i = 0; i < most; ++i) kept.push_back(std::move(pieces[i * all / most]));
  return kept;
}

// Pieces of some `most` tokens in all, evenly spaced: the first, and then each in front of which
// the kept share has fallen to what is wanted.
Texts some_tokens(Texts pieces, int64_t most) {
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

// Text tokens of a window that feeds `rows` rows: its last token is predicted, never fed.
int64_t text_tokens(int32_t rows, const WindowSettings& rule) {
  return std::min(rows, rule.context) + 1 - static_cast<int64_t>(rule.prefix.size());
}

// Rows of the shortest window that holds one full tile with more candidates than budget.
int32_t least_rows(const WindowSettings& rule) {
  const int32_t tile = rule.selection.query_tile;
  int32_t rows = tile;
  while (rows <= rule.context && sampled_tiles(rule.selection, rows).empty()) rows += tile;
  return rows;
}

// The same in tokens of text: the last one is predicted, never fed.
int64_t least_text_tokens(const WindowSettings& rule) {
  return least_rows(rule) + 1 - static_cast<int64_t>(rule.prefix.size());
}

}  // namespace

absl::StatusOr<SplitTexts> split_texts(const Texts& texts) {
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

absl::StatusOr<Texts> measured_windows(const Texts& texts, const WindowSettings& rule) {
  const int64_t room = text_tokens(rule.window_tokens, rule);
  const int64_t least = least_text_tokens(rule);
  const auto longest = std::ranges::max_element(texts, {}, &std::vector<Token>::size);
  const auto longest_size = static_cast<int64_t>(longest->size());
  if (std::min(room, longest_size) < least) {
    return absl::InvalidArgumentError(absl::StrCat(
        "texts: no query tile has more candidates than budget; a window of ", least,
        " tokens is needed under this selection (window_tokens ", rule.window_tokens, ", context ",
        rule.context, "), the longest text has ", longest_size, " to measure"));
  }
  Texts windows = at_most(cut(texts, room, least), kMeasuredWindows);
  const int64_t long_room = text_tokens(kLongWindow, rule);
  if (long_room > room && longest_size > room) {
    windows.emplace_back(longest->begin(), longest->begin() + std::min(longest_size, long_room));
  }
  return with_prefix(std::move(windows), rule.prefix);
}

absl::StatusOr<Texts> held_out_windows(const Texts& texts, const WindowSettings& rule) {
  const int64_t room = text_tokens(rule.window_tokens, rule);
  const int64_t least = least_text_tokens(rule);
  Texts pieces = room < least ? Texts{} : some_tokens(cut(texts, room, least), kMostGateTokens);
  if (const int64_t tokens = count_tokens(pieces); tokens < kLeastGateTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("texts: the held-out parts (the last 20 % of each text) have ", tokens,
                     " tokens in windows of at least ", least,
                     ", below which the selection drops no key; at least ", kLeastGateTokens,
                     " are needed, so give longer texts (", least * 5, " tokens or more each)"));
  }
  return with_prefix(std::move(pieces), rule.prefix);
}

Texts layer_cost_windows(const Texts& texts, const WindowSettings& rule) {
  const int64_t share = std::max(kLeastWeighingWindow, kWeighingTokens / std::ssize(texts));
  const int64_t room = std::min(text_tokens(rule.window_tokens, rule), share);
  const int64_t least = std::min(room, least_text_tokens(rule));
  return with_prefix(some_tokens(cut(texts, room, least), kWeighingTokens), rule.prefix);
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
