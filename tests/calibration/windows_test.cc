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

TEST(CalibrationWindowsTest, AFifthOfEachTextIsHeldOut) {
  const SplitTexts parts = split({.texts = texts_of(2, 5120)});
  EXPECT_EQ(parts.measured[1].size(), 4096u);
  EXPECT_EQ(parts.held_out[1].front(), kText + 4096);
  EXPECT_EQ(parts.held_out[1].size(), 1024u);
  EXPECT_TRUE(parts.is_fifth);
}

TEST(CalibrationWindowsTest, TextsOfTheirOwnAreHeldOutWhole) {
  const SplitTexts parts = split({.texts = texts_of(2, 5120), .held_out = texts_of(3, 700)});
  EXPECT_EQ(parts.measured, texts_of(2, 5120));
  EXPECT_EQ(parts.held_out, texts_of(3, 700));
  EXPECT_FALSE(parts.is_fifth);
}

TEST(CalibrationWindowsTest, JoinedTextsAreOneWithTheSeparatorBetween) {
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
  EXPECT_EQ(text_tokens(windows->held_out), (200 * 40 + 199) / 5);
  EXPECT_EQ(windows->measured.front().size(), 513u);
  EXPECT_EQ(windows->measured.front()[41], kLineBreak[0]);
  const auto asked = windows_of(rows, true);
  ASSERT_TRUE(asked.ok());
  EXPECT_EQ(asked->joined_texts, 0);  // as was asked for
  EXPECT_EQ(asked->measured, windows->measured);
  EXPECT_EQ(asked->held_out, windows->held_out);
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
              AllOf(HasSubstr("texts: the held-out parts (the last 20 % of each text) have 800"),
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

TEST(CalibrationWindowsTest, TheQualityCheckTakesAllOfAFewTokens) {
  const auto windows = held_out_windows({.held_out = texts_of(3, 5000)}, Settings(2048));
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(text_tokens(*windows), 3 * 5000);
  EXPECT_EQ(windows->front().size(), 2049u);  // the last one is predicted, never fed
}

// However short the windows are that many texts leave.
TEST(CalibrationWindowsTest, TheQualityCheckTakesSome16384TokensOfMany) {
  for (const auto& [count, tokens] : {std::pair{100, 200}, {4096, 240}, {40, 5000}, {1, 400000}}) {
    const auto windows = held_out_windows({.held_out = texts_of(count, tokens)}, Settings(4096));
    ASSERT_TRUE(windows.ok()) << windows.status();
    EXPECT_NEAR(static_cast<double>(text_tokens(*windows)), 16384, std::min(tokens, 4096)) << count;
    const std::vector<Token> starts = starts_of(*windows);
    EXPECT_EQ(starts.front(), 0);
    // Evenly spaced: the last one lies in the last quarter of all.
    const int64_t place = int64_t{starts.back() / kText} * tokens + starts.back() % kText;
    if (count * int64_t{tokens} > 32768) {
      EXPECT_GT(place, int64_t{count} * tokens * 2 / 3) << count;
    }
  }
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
