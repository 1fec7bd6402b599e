#include "engine/calibration_windows.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/attention/similarity_recorder.h"
#include "engine/digest.h"

namespace kascade {
namespace {

constexpr int64_t kLeastHeldOutTokens = 2048;
constexpr int64_t kLeastGateTokens = 1024;
constexpr int64_t kMostGateTokens = 16384;
constexpr int64_t kWeighingTokens = 2048;
constexpr int32_t kMeasuredWindows = 16;
constexpr int32_t kLongWindow = 16384;

// Cuts texts into pieces of `tokens`; a shorter rest is kept from `least` tokens on. At most `most`
// pieces, evenly spaced.
Texts cut(const Texts& texts, int64_t tokens, int64_t least, int64_t most) {
  Texts pieces;
  for (const std::vector<Token>& text : texts) {
    const auto size = static_cast<int64_t>(text.size());
    for (int64_t begin = 0; size - begin >= least; begin += tokens) {
      pieces.emplace_back(text.begin() + begin, text.begin() + std::min(size, begin + tokens));
    }
  }
  const auto all = static_cast<int64_t>(pieces.size());
  if (all <= most) return pieces;
  Texts kept;
  for (int64_t i = 0; i < most; ++i) kept.push_back(std::move(pieces[i * all / most]));
  return kept;
}

Texts with_prefix(Texts pieces, std::span<const int32_t> prefix) {
  for (std::vector<Token>& piece : pieces)
    piece.insert(piece.begin(), prefix.begin(), prefix.end());
  return pieces;
}

// Text tokens of a window that feeds `rows` rows: its last token is predicted, never fed.
int64_t text_tokens(int32_t rows, const WindowRule& rule) {
  return std::min(rows, rule.context) + 1 - static_cast<int64_t>(rule.prefix.size());
}

// Rows of the shortest window that holds one full tile with more candidates than budget.
int32_t least_rows(const WindowRule& rule) {
  const int32_t tile = rule.selection.query_tile;
  int32_t rows = tile;
  while (rows <= rule.context && sampled_tiles(rule.selection, rows).empty()) rows += tile;
  return rows;
}

// The same in tokens of text: the last one is predicted, never fed.
int64_t least_text_tokens(const WindowRule& rule) {
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

absl::StatusOr<Texts> measured_windows(const Texts& texts, const WindowRule& rule) {
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
  Texts windows = cut(texts, room, least, kMeasuredWindows);
  const int64_t long_room = text_tokens(kLongWindow, rule);
  if (long_room > room && longest_size > room) {
    windows.emplace_back(longest->begin(), longest->begin() + std::min(longest_size, long_room));
  }
  return with_prefix(std::move(windows), rule.prefix);
}

absl::StatusOr<Texts> held_out_windows(const Texts& texts, const WindowRule& rule) {
  const int64_t room = text_tokens(rule.window_tokens, rule);
  const int64_t least = least_text_tokens(rule);
  Texts pieces = room < least
                     ? Texts{}
                     : cut(texts, room, least, std::max<int64_t>(1, kMostGateTokens / room));
  if (const int64_t tokens = count_tokens(pieces); tokens < kLeastGateTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("texts: the held-out parts (the last 20 % of each text) have ", tokens,
                     " tokens in windows of at least ", least,
                     ", below which the selection drops no key; at least ", kLeastGateTokens,
                     " are needed, so give longer texts (", least * 5, " tokens or more each)"));
  }
  return with_prefix(std::move(pieces), rule.prefix);
}

Texts weighing_windows(const Texts& texts, const WindowRule& rule) {
  const int64_t room = text_tokens(rule.window_tokens, rule);
  const int64_t most = std::max<int64_t>(1, kWeighingTokens / room);
  return with_prefix(cut(texts, room, std::min(room, least_text_tokens(rule)), most), rule.prefix);
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
