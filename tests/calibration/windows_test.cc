// Which parts of the texts a calibration measures, and which it checks quality on.
#include "engine/calibration/windows.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

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
  const auto parts = split_held_out(texts_of(2, 5120));
  ASSERT_TRUE(parts.ok());
  EXPECT_EQ(parts->measured[1].size(), 4096u);
  EXPECT_EQ(parts->held_out[1].front(), kText + 4096);
  EXPECT_EQ(parts->held_out[1].size(), 1024u);
  EXPECT_THAT(std::string(split_held_out(texts_of(2, 5119)).status().message()), HasSubstr("2048"));
}

TEST(CalibrationWindowsTest, TheQualityCheckTakesAllOfAFewTokens) {
  const auto windows = held_out_windows(texts_of(3, 5000), Settings(2048));
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(text_tokens(*windows), 3 * 5000);
  EXPECT_EQ(windows->front().size(), 2049u);  // the last one is predicted, never fed
}

// However short the windows are that many texts leave.
TEST(CalibrationWindowsTest, TheQualityCheckTakesSome16384TokensOfMany) {
  for (const auto& [count, tokens] : {std::pair{100, 200}, {4096, 240}, {40, 5000}, {1, 400000}}) {
    const auto windows = held_out_windows(texts_of(count, tokens), Settings(4096));
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
