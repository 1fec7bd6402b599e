// How score protocols cut a sequence into windows, and how words and bytes of a text are counted.
#include "server/core/score_windows.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/core/scored_text.h"

namespace kascade::core {
namespace {

using ::testing::ElementsAre;

// loglikelihood_rolling as lm-evaluation-harness describes it: inputs and targets of each window,
// context_len 1, made disjoint. `text` has no BOS.
struct Pair {
  std::vector<int> inputs;
  std::vector<int> targets;
};
std::vector<Pair> harness_windows(const std::vector<int>& text, int bos, int max_length) {
  std::vector<Pair> out;
  const int size = static_cast<int>(text.size());
  const int first = std::min(max_length, size);
  out.push_back({{bos}, {text.begin(), text.begin() + first}});
  out.back().inputs.insert(out.back().inputs.end(), text.begin(), text.begin() + first - 1);
  for (int done = first; done < size;) {
    const int count = std::min(size - done, max_length);
    const int end = done + count;
    out.push_back({{text.begin() + end - max_length - 1, text.begin() + end - 1},
                   {text.begin() + end - count, text.begin() + end}});
    done = end;
  }
  return out;
}

TEST(RollingWindows, AreThoseOfTheHarness) {
  for (const int size : {1, 2, 7, 8, 9, 15, 16, 17, 40, 41, 100}) {
    for (const int max_length : {1, 2, 8, 16, 99, 100, 101}) {
      SCOPED_TRACE(::testing::Message() << size << " tokens, max_length " << max_length);
      std::vector<int> text(size);
      std::iota(text.begin(), text.end(), 1);
      std::vector<int> sequence{0};
      sequence.insert(sequence.end(), text.begin(), text.end());
      const auto expected = harness_windows(text, 0, max_length);
      const auto windows = rolling_windows(size + 1, max_length + 1);
      ASSERT_EQ(windows.size(), expected.size());
      for (size_t i = 0; i < windows.size(); ++i) {
        const auto begin = sequence.begin() + windows[i].begin;
        const std::vector<int> tokens(begin, begin + windows[i].count);
        std::vector<int> inputs = expected[i].inputs;
        inputs.push_back(expected[i].targets.back());
        EXPECT_EQ(tokens, inputs);
        EXPECT_EQ(std::vector<int>(tokens.begin() + windows[i].first_scored, tokens.end()),
                  expected[i].targets);
      }
    }
  }
}

TEST(ChunkWindows, AreScoredInTheirSecondHalf) {
  EXPECT_THAT(chunk_windows(17, 8), ElementsAre(ScoreWindow{0, 8, 5}, ScoreWindow{8, 8, 5}));
  EXPECT_THAT(chunk_windows(6, 3), ElementsAre(ScoreWindow{0, 3, 2}, ScoreWindow{3, 3, 2}));
  EXPECT_EQ(chunk_windows(1024, 512).back(), (ScoreWindow{512, 512, 257}));  // 255 of 512
}

TEST(StridedWindows, ScoreEachTokenFromTheFirstOnOnce) {
  for (int64_t first = 1; first <= 9; ++first) {
    for (const int window : {2, 3, 4, 7, 20, 30}) {
      for (int stride = 1; stride < window; ++stride) {
        SCOPED_TRACE(::testing::Message() << first << ", " << window << ", " << stride);
        int64_t next = first;
        for (const ScoreWindow& cut : strided_windows(20, window, stride, first)) {
          EXPECT_EQ(cut.begin % stride, 0);
          EXPECT_EQ(cut.count, std::min<int64_t>(window, 20 - cut.begin));
          EXPECT_GE(cut.first_scored, 1);
          EXPECT_EQ(cut.begin + cut.first_scored, next);
          next = cut.begin + cut.count;
        }
        EXPECT_EQ(next, 20);
      }
    }
  }
}

TEST(RollingWindows, ScoreEachTokenFromTheFirstOnOnce) {
  for (int64_t first = 1; first <= 4; ++first) {
    for (const int window : {2, 3, 4, 7}) {
      int64_t next = first;
      for (const ScoreWindow& cut : rolling_windows(20, window, first)) {
        EXPECT_GE(cut.begin, 0);
        EXPECT_LE(cut.count, window);
        EXPECT_GE(cut.first_scored, 1);
        EXPECT_EQ(cut.begin + cut.first_scored, next);
        next = cut.begin + cut.count;
      }
      EXPECT_EQ(next, 20);
    }
  }
}

TEST(TextCounter, CountsAsPythonSplits) {
  const auto words = [](std::string_view text, size_t piece) {
    TextCounter counter;
    for (size_t i = 0; i < text.size(); i += piece) counter.add(text.substr(i, piece));
    EXPECT_EQ(counter.bytes(), static_cast<int64_t>(text.size()));
    return counter.words();
  };
  for (const size_t piece : {1, 2, 3, 100}) {
    EXPECT_EQ(words("", piece), 0);
    EXPECT_EQ(words("one", piece), 1);
    EXPECT_EQ(words(" one\n\n two ", piece), 4);
    EXPECT_EQ(words("   ", piece), 2);
    EXPECT_EQ(words("a\xc2\xa0 \xe3\x80\x80"
                    "b\xe2\x80\xa9"
                    "c\x1c"
                    "d\xc2\x85",
                    piece),
              5);
    EXPECT_EQ(words("na\xc3\xafve \xf0\x9f\x98\x80", piece), 2);
    EXPECT_EQ(words("a\xff \xe3\x80", piece), 2);  // broken, and cut off
    EXPECT_EQ(words("a\xe3\x80 b", piece), 2);     // no space but the last
  }
}

TEST(WithoutTrailingSpace, IsPythonsRstrip) {
  EXPECT_EQ(without_trailing_space(""), "");
  EXPECT_EQ(without_trailing_space(" \n\t"), "");
  EXPECT_EQ(without_trailing_space(" a b"), " a b");
  EXPECT_EQ(without_trailing_space("a\xc2\xa0\x1f\xe3\x80\x80 \xe2\x80\xa9"), "a");
  EXPECT_EQ(without_trailing_space("na\xc3\xaf "), "na\xc3\xaf");
  EXPECT_EQ(without_trailing_space("a\xe2\x80\x8b"), "a\xe2\x80\x8b");  // of no width: no space
  EXPECT_EQ(without_trailing_space("\x80\x80"), "\x80\x80");
}

}  // namespace
}  // namespace kascade::core
