#include "engine/calibration/texts.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

namespace kascade {
namespace {

// The kind of text i of a list whose kinds are `kinds`.
std::string kind_at(const std::vector<std::string>& kinds, size_t i) {
  return kinds.empty() ? kUnnamedKind : kinds[i];
}

int64_t held_out_tokens(int64_t size, int64_t window) {
  return std::max(size / 5, std::min(window, size / 2));
}

bool is_short(int64_t size, int64_t window) {
  return size / 2 < std::min(window, kLeastTokensOfKind);
}

// A kind, and the tokens of it that can be held out.
struct KindSize {
  std::string kind{};
  int64_t held_out = 0;
};

// The kinds in the order of their first texts. `held_out_of` says how many tokens of texts with
// these sizes can be held out.
std::vector<KindSize> kind_sizes(
    const Texts& texts, const std::vector<std::string>& kinds,
    const std::function<int64_t(const std::vector<int64_t>& sizes)>& held_out_of) {
  std::vector<KindSize> sizes;
  std::map<std::string, std::vector<int64_t>> texts_of;
  for (size_t i = 0; i < texts.size(); ++i) {
    std::vector<int64_t>& of_kind = texts_of[kind_at(kinds, i)];
    if (of_kind.empty()) sizes.push_back({.kind = kind_at(kinds, i)});
    of_kind.push_back(std::ssize(texts[i]));
  }
  for (KindSize& size : sizes) size.held_out = held_out_of(texts_of[size.kind]);
  return sizes;
}

// The name under which each kind is checked: its own, kOtherKinds, or none (empty).
std::map<std::string, std::string> checked_names(std::vector<KindSize> sizes) {
  std::map<std::string, std::string> names;
  if (sizes.size() == 1) return {{sizes[0].kind, sizes[0].kind}};
  std::ranges::stable_sort(sizes, std::greater(), &KindSize::held_out);
  int64_t other_tokens = 0;
  int64_t own = 0;
  for (const KindSize& size : sizes) {
    const bool is_own = size.held_out >= kLeastTokensOfKind && own < kMostKinds - 1;
    names[size.kind] = is_own ? size.kind : kOtherKinds;
    is_own ? ++own : other_tokens += size.held_out;
  }
  if (own == 0 || other_tokens >= kLeastTokensOfKind) return names;
  for (auto& [kind, name] : names) {
    if (name == kOtherKinds && kind != kOtherKinds) name.clear();
  }
  return names;
}

std::vector<std::string> unchecked_kinds(const std::map<std::string, std::string>& names) {
  std::vector<std::string> kinds;
  for (const auto& [kind, name] : names) {
    if (name.empty()) kinds.push_back(kind);
  }
  return kinds;
}

// Tokens that are held out of texts of one kind with these sizes.
int64_t held_out_of_kind(const std::vector<int64_t>& sizes, int64_t window, bool joins_short) {
  int64_t held = 0, in_short_texts = 0;
  for (const int64_t size : sizes) {
    const bool counts_as_part = joins_short && is_short(size, window);
    (counts_as_part ? in_short_texts : held) +=
        counts_as_part ? size : held_out_tokens(size, window);
  }
  return held + held_out_tokens(in_short_texts, window);
}

SplitTexts with_own_held_out(const CalibrationTexts& texts, bool joins_short) {
  SplitTexts result{.measured = texts.texts, .is_end = false, .joins_short = joins_short};
  const auto all = [](const std::vector<int64_t>& sizes) {
    int64_t sum = 0;
    for (const int64_t size : sizes) sum += size;
    return sum;
  };
  const auto names = checked_names(kind_sizes(texts.held_out, texts.held_out_kinds, all));
  for (size_t i = 0; i < texts.held_out.size(); ++i) {
    const std::string& name = names.at(kind_at(texts.held_out_kinds, i));
    if (!name.empty()) result.held_out.push_back({name, texts.held_out[i]});
  }
  result.unchecked = unchecked_kinds(names);
  return result;
}

// Splits the texts. The short texts of a kind count as one, of which the end is held out, so that
// they are gone through from the last one to the first.
void hold_out_ends(const CalibrationTexts& texts, int64_t window,
                   const std::map<std::string, std::string>& names, SplitTexts& result) {
  std::map<std::string, int64_t> in_short_texts;  // tokens to hold out, by checked name
  const auto counts_as_part = [&](size_t i) {
    return result.joins_short && is_short(std::ssize(texts.texts[i]), window);
  };
  const auto name_at = [&](size_t i) { return names.at(kind_at(texts.kinds, i)); };
  for (size_t i = 0; i < texts.texts.size(); ++i) {
    if (counts_as_part(i)) in_short_texts[name_at(i)] += std::ssize(texts.texts[i]);
  }
  for (auto& [name, tokens] : in_short_texts) tokens = held_out_tokens(tokens, window);
  for (size_t i = texts.texts.size(); i-- > 0;) {
    const std::vector<Token>& text = texts.texts[i];
    const std::string name = name_at(i);
    int64_t held = name.empty() ? 0 : held_out_tokens(std::ssize(text), window);
    if (!name.empty() && counts_as_part(i)) {
      held = std::min<int64_t>(std::ssize(text), in_short_texts[name]);
      in_short_texts[name] -= held;
    }
    result.measured.emplace_back(text.begin(), text.end() - held);
    if (held > 0) result.held_out.push_back({name, {text.end() - held, text.end()}});
  }
  std::ranges::reverse(result.measured);
  std::ranges::reverse(result.held_out);
}

struct JoinedKinds {
  Texts texts{};
  std::vector<std::string> kinds{};
};

JoinedKinds join_kinds(const Texts& texts, const std::vector<std::string>& kinds,
                       std::span<const Token> separator) {
  JoinedKinds result;
  std::map<std::string, Texts> texts_of;
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string kind = kind_at(kinds, i);
    if (!texts_of.contains(kind)) result.kinds.push_back(kind);
    texts_of[kind].push_back(texts[i]);
  }
  for (const std::string& kind : result.kinds) {
    result.texts.push_back(joined_text(texts_of[kind], separator));
  }
  return result;
}

}  // namespace

SplitTexts split(const CalibrationTexts& texts, int64_t window, bool joins_short) {
  if (!texts.held_out.empty()) return with_own_held_out(texts, joins_short);
  SplitTexts result{.joins_short = joins_short};
  const auto held_out_of = [&](const std::vector<int64_t>& sizes) {
    return held_out_of_kind(sizes, window, joins_short);
  };
  const auto names = checked_names(kind_sizes(texts.texts, texts.kinds, held_out_of));
  hold_out_ends(texts, window, names, result);
  result.unchecked = unchecked_kinds(names);
  return result;
}

CalibrationTexts joined_by_kind(const CalibrationTexts& texts, std::span<const Token> separator) {
  JoinedKinds measured = join_kinds(texts.texts, texts.kinds, separator);
  JoinedKinds held_out = join_kinds(texts.held_out, texts.held_out_kinds, separator);
  return {.texts = std::move(measured.texts),
          .held_out = std::move(held_out.texts),
          .kinds = std::move(measured.kinds),
          .held_out_kinds = std::move(held_out.kinds)};
}

CalibrationTexts joined(const CalibrationTexts& texts, std::span<const Token> separator) {
  CalibrationTexts result;
  if (!texts.texts.empty()) result.texts = {joined_text(texts.texts, separator)};
  if (!texts.held_out.empty()) result.held_out = {joined_text(texts.held_out, separator)};
  return result;
}

std::vector<Token> joined_text(const Texts& texts, std::span<const Token> separator) {
  std::vector<Token> all;
  for (const std::vector<Token>& text : texts) {
    if (&text != &texts.front()) all.insert(all.end(), separator.begin(), separator.end());
    all.insert(all.end(), text.begin(), text.end());
  }
  return all;
}

int64_t count_tokens(const Texts& texts) {
  int64_t tokens = 0;
  for (const std::vector<Token>& text : texts) tokens += static_cast<int64_t>(text.size());
  return tokens;
}

}  // namespace kascade
