#include "tools/format_report/text_windows.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kascade::format_report {
namespace {

absl::StatusOr<std::vector<int32_t>> encoded(const ReportText& text, const Tokenizer& tokenizer,
                                             int32_t vocab) {
  auto tokens = tokenizer.encode(text.content, {.add_special_tokens = false});
  if (!tokens.ok()) {
    return absl::Status(tokens.status().code(),
                        absl::StrCat(text.name, ": ", tokens.status().message()));
  }
  const auto unknown = std::ranges::find_if(*tokens, [&](int32_t id) { return id >= vocab; });
  if (unknown != tokens->end()) {
    return absl::InvalidArgumentError(absl::StrCat(text.name, ": has token ", *unknown, " (",
                                                   std::string(tokenizer.token_text(*unknown)),
                                                   "), but config.json's vocab_size is ", vocab));
  }
  return tokens;
}

}  // namespace

absl::StatusOr<std::vector<TextWindow>> choose_windows(const std::vector<ReportText>& texts,
                                                       const Tokenizer& tokenizer, int32_t vocab,
                                                       const WindowChoice& choice) {
  const auto prefix = tokenizer.prefix_tokens();
  const int64_t own = choice.window_tokens - static_cast<int64_t>(prefix.size());
  if (own < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("window_tokens: must be more than the ", prefix.size(),
                     " tokens that begin every text, got ", choice.window_tokens));
  }
  std::vector<TextWindow> windows;
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto tokens = encoded(texts[i], tokenizer, vocab);
    if (!tokens.ok()) return tokens.status();
    const auto size = static_cast<int64_t>(tokens->size());
    if (size < own * choice.per_text) {
      return absl::InvalidArgumentError(
          absl::StrCat(texts[i].name, ": has ", size, " tokens; ", choice.per_text, " windows of ",
                       choice.window_tokens, " tokens need ", own * choice.per_text,
                       ": give a longer text, fewer tokens or fewer windows"));
    }
    for (int64_t part = 0; part < choice.per_text; ++part) {
      const int64_t begin = (size * part + size * (part + 1)) / (2 * choice.per_text) - own / 2;
      const int64_t first = std::clamp<int64_t>(begin, 0, size - own);
      TextWindow window{.text = i, .tokens = {prefix.begin(), prefix.end()}};
      window.tokens.insert(window.tokens.end(), tokens->begin() + first,
                           tokens->begin() + first + own);
      windows.push_back(std::move(window));
    }
  }
  return windows;
}

}  // namespace kascade::format_report
