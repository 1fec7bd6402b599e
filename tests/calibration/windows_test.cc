// Which parts of the texts a calibration measures, and which it checks quality on.
#include "engine/calibration/windows.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Token kBos = -1;
constexpr Token kText = 100000;  // of text i the tokens are i · kText, i · kText + 1, …

Texts texts_of(int32_t count, int32_t tokens) {
  Texts texts;
  for (int32_t i = 0; i < count; ++i) {
    texts.emplace_back(tokens);
    std::iota(texts.back().begin(), texts.back().end(), i * kText);
  }
  return texts;
}

struct Settings : WindowSettings {
  explicit Settings(int32_t window) {
    selection.min_keys = 16;
    window_tokens = window;
    context = 4096;
    prefix = bos_;
  }

 private:
  std::vector<int32_t> bos_{kBos};
};

struct LongSettings : Settings {
  LongSettings() : Settings(32768) { context = 65536; }
};

std::vector<Token> starts_of(const Texts& windows) {
  std::vector<Token> starts;
  for (const std::vector<Token>& window : windows) {
    EXPECT_EQ(window.front(), kBos);
    EXPECT_TRUE(std::ranges::is_sorted(window));
    starts.push_back(window[1]);
  }
  return starts;
}

// Of the text alone, without BOS.
int64_t text_tokens(const Texts& windows) { return count_tokens(windows) - std::ssize(windows); }

constexpr int64_t kWindow = 2048;

SplitTexts split_in_windows(const CalibrationTexts& texts, bool joins_short = true) {
  return split(texts, kWindow, joins_short);
}

Texts tokens_of(const std::vector<HeldOutText>& held_out) {
  Texts texts;
  for (const HeldOutText& text : held_out) texts.push_back(text.tokens);
  return texts;
}

// The kinds of the held-out texts, in their order.
std::vector<std::string> kinds_of(const SplitTexts& parts) {
  std::vector<std::string> kinds;
  for (const HeldOutText& text : parts.held_out) kinds.push_back(text.kind);
  return kinds;
}

TEST(CalibrationSplitTest, AFifthOfEachLongTextIsHeldOut) {
  const SplitTexts parts = split_in_windows({.texts = texts_of(2, 15000)});
  EXPECT_EQ(parts.measured[1].size(), 12000u);
  EXPECT_EQ(parts.held_out[1].tokens.front(), kText + 12000);
  EXPECT_EQ(parts.held_out[1].tokens.size(), 3000u);
  EXPECT_TRUE(parts.is_end);
  EXPECT_THAT(kinds_of(parts), ElementsAre("text", "text"));
}

// A fifth of such a text is no window, but an end of it is.
TEST(CalibrationSplitTest, AWindowIsHeldOutOfAShorterTextButAtMostHalf) {
  for (const auto& [tokens, held] : {std::pair{9000, 2048}, {5000, 2048}, {3000, 1500}}) {
    const SplitTexts parts = split_in_windows({.texts = texts_of(1, tokens)});
    EXPECT_EQ(parts.held_out.at(0).tokens.size(), static_cast<size_t>(held));
    EXPECT_EQ(parts.measured.at(0).size(), static_cast<size_t>(tokens - held));
  }
}

// Of 30 texts of 1,000 tokens the last fifth is held out, whole texts, and not a part of each.
TEST(CalibrationSplitTest, ShortTextsOfAKindCountAsOne) {
  const SplitTexts parts = split_in_windows({.texts = texts_of(30, 1000)});
  EXPECT_EQ(tokens_of(parts.held_out).front(), texts_of(30, 1000)[24]);
  EXPECT_EQ(parts.held_out.size(), 6u);
  EXPECT_EQ(count_tokens(parts.measured), 24000);
  EXPECT_EQ(parts.measured[23].size(), 1000u);
  const SplitTexts apart = split_in_windows({.texts = texts_of(30, 1000)}, /*joins_short=*/false);
  EXPECT_EQ(apart.held_out.size(), 30u);
  EXPECT_EQ(apart.held_out[3].tokens.size(), 500u);
}

TEST(CalibrationSplitTest, TextsOfTheirOwnAreHeldOutWhole) {
  const SplitTexts parts = split_in_windows({.texts = texts_of(2, 5120),
                                             .held_out = texts_of(3, 700),
                                             .held_out_kinds = {"a", "b", "a"}});
  EXPECT_EQ(parts.measured, texts_of(2, 5120));
  EXPECT_FALSE(parts.is_end);
  // Kind b has fewer than 1,024 tokens, and no other small kind is there to be checked with it.
  EXPECT_EQ(tokens_of(parts.held_out), (Texts{texts_of(3, 700)[0], texts_of(3, 700)[2]}));
  EXPECT_THAT(kinds_of(parts), ElementsAre("a", "a"));
  EXPECT_THAT(parts.unchecked, ElementsAre("b"));
}

TEST(CalibrationSplitTest, SmallKindsAreCheckedTogether) {
  Texts texts = texts_of(5, 1500);
  texts[2].resize(1000);
  texts[0] = texts_of(1, 9000)[0];
  const SplitTexts parts =
      split_in_windows({.texts = texts, .kinds = {"prose", "a", "b", "c", "d"}});
  const std::vector<std::string> kinds = kinds_of(parts);
  EXPECT_EQ(kinds.front(), "prose");
  EXPECT_EQ(std::ranges::count(kinds, kOtherKinds), std::ssize(kinds) - 1);
  // Of 5,500 tokens together as many as a window has.
  EXPECT_EQ(count_tokens(tokens_of(parts.held_out)), 2048 + 2048);
  EXPECT_THAT(parts.unchecked, ElementsAre());
}

// Nothing is held out of a kind that could not be checked: all of it is measured.
TEST(CalibrationSplitTest, WhatCannotBeCheckedIsMeasuredWhole) {
  Texts texts = texts_of(2, 9000);
  texts[1].resize(600);
  const SplitTexts parts = split_in_windows({.texts = texts, .kinds = {"prose", "mail"}});
  EXPECT_THAT(kinds_of(parts), ElementsAre("prose"));
  EXPECT_THAT(parts.unchecked, ElementsAre("mail"));
  EXPECT_EQ(parts.measured[1].size(), 600u);
}

TEST(CalibrationSplitTest, AtMost16KindsAreDistinguished) {
  std::vector<std::string> names;
  Texts texts;
  for (int32_t i = 0; i < 40; ++i) {
    names.push_back("kind " + std::to_string(i));
    texts.push_back(texts_of(1, 4000 + i)[0]);
  }
  const std::vector<std::string> kinds =
      kinds_of(split_in_windows({.texts = texts, .kinds = names}));
  EXPECT_EQ(std::set(kinds.begin(), kinds.end()).size(), static_cast<size_t>(kMostKinds));
  EXPECT_EQ(std::ranges::count(kinds, kOtherKinds), 25);
  EXPECT_EQ(kinds.back(), "kind 39");  // the largest ones have figures of their own
}

TEST(CalibrationSplitTest, TextsAreJoinedByKind) {
  const std::vector<Token> separator = {-7};
  const CalibrationTexts texts =
      joined_by_kind({.texts = texts_of(3, 2), .kinds = {"b", "a", "b"}}, separator);
  EXPECT_THAT(texts.texts, ElementsAre(ElementsAre(0, 1, -7, 2 * kText, 2 * kText + 1),
                                       ElementsAre(kText, kText + 1)));
  EXPECT_THAT(texts.kinds, ElementsAre("b", "a"));
  EXPECT_EQ(texts.held_out, Texts{});
}

TEST(CalibrationSplitTest, JoinedTextsAreOneWithTheSeparatorBetween) {
  const std::vector<Token> separator = {-7, -8};
  const CalibrationTexts texts =
      joined({.texts = texts_of(3, 2), .held_out = texts_of(1, 3)}, separator);
  EXPECT_THAT(texts.texts, ElementsAre(ElementsAre(0, 1, -7, -8, kText, kText + 1, -7, -8,
                                                   2 * kText, 2 * kText + 1)));
  EXPECT_EQ(texts.held_out, texts_of(1, 3));
  EXPECT_EQ(joined({.texts = texts_of(1, 2)}, separator).held_out, Texts{});
}

constexpr Token kLineBreak[] = {-2};

absl::StatusOr<CalibrationWindows> windows_of(const CalibrationTexts& texts,
                                              std::optional<bool> join, int32_t window = 512) {
  return calibration_windows(texts, {Settings(window), Settings(window), join, kLineBreak});
}

// All windows of the quality check.
Texts windows_of(const std::vector<KindWindows>& kinds) {
  Texts all;
  for (const KindWindows& kind : kinds)
    all.insert(all.end(), kind.windows.begin(), kind.windows.end());
  return all;
}

std::string refusal_of(const absl::StatusOr<CalibrationWindows>& windows) {
  EXPECT_EQ(windows.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(windows.status().message());
}

// Rows of a file: none of them has a tile with more candidates than budget.
TEST(CalibrationWindowsTest, ShortTextsAreJoinedUnlessThatIsRefused) {
  const CalibrationTexts rows{.texts = texts_of(200, 40)};
  EXPECT_THAT(refusal_of(windows_of(rows, false)), HasSubstr("have 0 tokens in windows"));
  const auto windows = windows_of(rows, std::nullopt);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(windows->joined_texts, 200);
  // 200 rows and 199 separators, of which a fifth is held out; a window begins with BOS.
  EXPECT_EQ(text_tokens(windows_of(windows->held_out)), (200 * 40 + 199) / 5 / 512 * 512);
  EXPECT_EQ(windows->measured.front().size(), 513u);
  EXPECT_EQ(windows->measured.front()[41], kLineBreak[0]);
  const auto asked = windows_of(rows, true);
  ASSERT_TRUE(asked.ok());
  EXPECT_EQ(asked->joined_texts, 0);  // as was asked for
  EXPECT_EQ(asked->measured, windows->measured);
  EXPECT_EQ(windows_of(asked->held_out), windows_of(windows->held_out));
}

TEST(CalibrationWindowsTest, TextsThatAreLongEnoughAreNotJoined) {
  const CalibrationTexts texts{.texts = texts_of(4, 5000)};
  const auto windows = windows_of(texts, std::nullopt);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(windows->joined_texts, 0);
  const auto apart = windows_of(texts, false);
  ASSERT_TRUE(apart.ok());
  EXPECT_EQ(windows->measured, apart->measured);
  EXPECT_NE(windows_of(texts, true)->measured, apart->measured);
}

TEST(CalibrationWindowsTest, SaysHowMuchTextIsMissing) {
  // Of 4,000 tokens 800 are held out: 224 are missing, and five times as many of text.
  EXPECT_THAT(refusal_of(windows_of({.texts = texts_of(1, 4000)}, std::nullopt)),
              AllOf(HasSubstr("texts: the held-out parts (the end of each text) have 800"),
                    HasSubstr("at least 1024; add 1120 tokens or more, about 840 words")));
  const CalibrationTexts little_held_out{.texts = texts_of(1, 4000), .held_out = texts_of(1, 800)};
  EXPECT_THAT(refusal_of(windows_of(little_held_out, std::nullopt)),
              AllOf(HasSubstr("held_out_texts: the texts have 800"),
                    HasSubstr("add 224 tokens or more, about 168 words")));
  const CalibrationTexts little{.texts = texts_of(1, 30), .held_out = texts_of(1, 2000)};
  EXPECT_THAT(refusal_of(windows_of(little, std::nullopt)),
              AllOf(HasSubstr("texts: a window needs at least 64"), HasSubstr("has 30"),
                    HasSubstr("add 34 tokens or more, about 26 words")));
  const CalibrationTexts enough{.texts = texts_of(1, 64), .held_out = texts_of(1, 1024)};
  EXPECT_TRUE(windows_of(enough, std::nullopt).ok());
}

TEST(CalibrationWindowsTest, SaysThatTheWindowIsTooSmallForTheBudget) {
  Settings settings(96);
  settings.selection.min_keys = 128;
  const CalibrationTexts texts{.texts = texts_of(1, 30000)};
  const auto refuse = [&] {
    return refusal_of(calibration_windows(texts, {settings, settings, std::nullopt, kLineBreak}));
  };
  EXPECT_THAT(refuse(), HasSubstr("window_tokens: must be at least 192 for this selection to drop "
                                  "keys, is 96"));
  settings.selection.min_keys = 5000;
  EXPECT_THAT(refuse(),
              HasSubstr("min_keys: no query has more candidates than budget within 4096"));
  settings.selection = {.family = Family::kTile, .query_tile = 16, .top_k = 300};
  EXPECT_THAT(refuse(), HasSubstr("top_k: "));
}

TEST(CalibrationWindowsTest, TheLongWindowCanBeLeftOut) {
  Settings settings(512);
  settings.long_window = false;
  const auto windows = measured_windows(texts_of(4, 20000), settings);
  ASSERT_TRUE(windows.ok());
  EXPECT_EQ(windows->size(), 16u);
  for (const std::vector<Token>& window : *windows) EXPECT_EQ(window.size(), 513u);
}

// Windows of the quality check of held-out texts that all are of one kind.
Texts checked(const Texts& texts, const WindowSettings& settings, bool joins_short = true) {
  SplitTexts parts{.joins_short = joins_short};
  for (const std::vector<Token>& text : texts) parts.held_out.push_back({"text", text});
  const auto kinds = held_out_windows(parts, settings, kLineBreak);
  EXPECT_TRUE(kinds.ok()) << kinds.status();
  return kinds.ok() ? windows_of(*kinds) : Texts{};
}

std::vector<size_t> sizes_of(const Texts& windows) {
  std::vector<size_t> sizes;
  for (const std::vector<Token>& window : windows) sizes.push_back(window.size() - 1);
  return sizes;
}

// The rest of a text is a window if it is half of one.
TEST(CalibrationWindowsTest, TheQualityCheckTakesWholeWindows) {
  const Settings settings(2048);
  EXPECT_THAT(sizes_of(checked(texts_of(2, 5000), settings)), ElementsAre(2048, 2048, 2048, 2048));
  EXPECT_THAT(sizes_of(checked(texts_of(1, 5200), settings)), ElementsAre(2048, 2048, 1104));
  EXPECT_THAT(sizes_of(checked(texts_of(1, 1500), settings)), ElementsAre(1500));
}

// Short texts make whole windows together, with a line break between.
TEST(CalibrationWindowsTest, TheQualityCheckJoinsShortTexts) {
  const Settings settings(2048);
  const Texts windows = checked(texts_of(5, 600), settings);
  EXPECT_THAT(sizes_of(windows), ElementsAre(2048));
  EXPECT_EQ(windows[0][601], kLineBreak[0]);
  EXPECT_EQ(windows[0][602], kText);
  EXPECT_THAT(sizes_of(checked(texts_of(5, 600), settings, /*joins_short=*/false)),
              ElementsAre(600, 600, 600, 600, 600));
}

// However short the texts are.
TEST(CalibrationWindowsTest, TheQualityCheckTakesSome16384TokensOfMany) {
  for (const auto& [count, tokens] : {std::pair{200, 200}, {4096, 240}, {40, 5000}, {1, 400000}}) {
    const Texts windows = checked(texts_of(count, tokens), Settings(4096));
    EXPECT_NEAR(static_cast<double>(text_tokens(windows)), 16384, 4096) << count;
    std::vector<Token> starts;
    for (const std::vector<Token>& window : windows) starts.push_back(window[1]);
    EXPECT_EQ(starts.front(), 0);
    // Evenly spaced: the last one lies in the last third of all.
    const int64_t place = int64_t{starts.back() / kText} * tokens + starts.back() % kText;
    if (count * int64_t{tokens} > 100000) {
      EXPECT_GT(place, int64_t{count} * tokens * 2 / 3) << count;
    }
  }
}

// Kinds share the tokens equally, and what a small one leaves goes to the others.
TEST(CalibrationWindowsTest, EachKindHasItsShareOfTheQualityCheck) {
  SplitTexts parts;
  for (const auto& [kind, tokens] :
       {std::pair{"large", 90000}, {"small", 3000}, {"other", 50000}}) {
    parts.held_out.push_back({kind, texts_of(1, tokens)[0]});
  }
  const auto kinds = held_out_windows(parts, Settings(1024), kLineBreak);
  ASSERT_TRUE(kinds.ok()) << kinds.status();
  ASSERT_EQ(kinds->size(), 3u);
  EXPECT_EQ((*kinds)[0].kind, "large");
  EXPECT_EQ(text_tokens((*kinds)[1].windows), 3000);
  EXPECT_NEAR(static_cast<double>(text_tokens((*kinds)[0].windows)), 6700, 1024);
  EXPECT_NEAR(static_cast<double>(text_tokens((*kinds)[2].windows)), 6700, 1024);
  EXPECT_EQ(longest_rows(*kinds), 1024);
  // At least one whole window of each, however long it is.
  const auto long_ones =
      held_out_windows({.held_out = {{"a", texts_of(1, 90000)[0]}, {"b", texts_of(1, 90000)[0]}}},
                       LongSettings(), kLineBreak);
  ASSERT_TRUE(long_ones.ok());
  EXPECT_THAT(sizes_of(windows_of(*long_ones)), ElementsAre(32768, 32768));
}

TEST(CalibrationWindowsTest, LongCheckWindowsAreAsLongAsAKindAllows) {
  EXPECT_EQ(longest_check_window({.texts = texts_of(1, 100)}), 2048);
  EXPECT_EQ(longest_check_window({.texts = texts_of(1, 8191)}), 2048);
  EXPECT_EQ(longest_check_window({.texts = texts_of(1, 8192)}), 4096);
  EXPECT_EQ(longest_check_window({.texts = texts_of(3, 100000)}), 8192);
  // Texts of their own are held out whole, and those of a kind can be joined.
  CalibrationTexts texts{.texts = texts_of(1, 100000), .held_out = texts_of(3, 2000)};
  EXPECT_EQ(longest_check_window(texts), 4096);
  texts.held_out_kinds = {"prose", "code", "prose"};
  EXPECT_EQ(longest_check_window(texts), 2048);
  texts.held_out.push_back(std::vector<Token>(200));
  texts.held_out_kinds.push_back("prose");
  EXPECT_EQ(longest_check_window(texts), 4096);
}

TEST(CalibrationWindowsTest, LayerCostsTakeSome2048Tokens) {
  EXPECT_THAT(starts_of(layer_cost_windows(texts_of(1, 30000), Settings(2048))), ElementsAre(0));
  EXPECT_EQ(text_tokens(layer_cost_windows(texts_of(1, 30000), Settings(2048))), 2048);
  EXPECT_THAT(starts_of(layer_cost_windows(texts_of(1, 8192), Settings(512))),
              ElementsAre(0, 2048, 4096, 6144));
}

// All texts take part, whatever their order.
TEST(CalibrationWindowsTest, LayerCostsTakeTokensOfSeveralTexts) {
  for (const int32_t count : {2, 3, 4}) {
    const Texts windows = layer_cost_windows(texts_of(count, 30000), Settings(2048));
    std::set<Token> seen;
    for (const Token start : starts_of(windows)) seen.insert(start / kText);
    EXPECT_EQ(std::ssize(seen), count);
    EXPECT_NEAR(static_cast<double>(text_tokens(windows)), 2048, 2048.0 / count);
  }
  const Texts of_many = layer_cost_windows(texts_of(1000, 900), Settings(2048));
  EXPECT_NEAR(static_cast<double>(text_tokens(of_many)), 2048, 512);
  EXPECT_GE(std::ssize(of_many), 4);
  // A short text in the first place does not make the windows short.
  Texts uneven = texts_of(2, 30000);
  uneven[0].resize(300);
  EXPECT_GE(text_tokens(layer_cost_windows(uneven, Settings(2048))), 1024);
}

TEST(CalibrationWindowsTest, MeasuresAtMost16WindowsAndALongOne) {
  const auto windows = measured_windows(texts_of(4, 20000), Settings(2048));
  ASSERT_TRUE(windows.ok());
  ASSERT_EQ(windows->size(), 17u);
  EXPECT_EQ(windows->front().size(), 2049u);
  EXPECT_EQ(windows->back().size(), 4097u);
}

}  // namespace
}  // namespace kascade
