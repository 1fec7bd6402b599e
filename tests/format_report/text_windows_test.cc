// Tests where the windows of a report lie in their texts, and what is refused.
#include "tools/format_report/text_windows.h"

#include "engine/tokenizer/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tiny_model.h"

namespace kascade::format_report {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Its tokens are bytes, and every text begins with BOS.
std::unique_ptr<Tokenizer> byte_tokenizer() {
  return *parse_tokenizer_json(testing::tiny_tokenizer().dump());
}

absl::StatusOr<std::vector<TextWindow>> choose(const std::vector<ReportText>& texts,
                                               const WindowChoice& choice, int32_t vocab = 264) {
  return choose_windows(texts, *byte_tokenizer(), vocab, choice);
}

std::string error_of(const std::vector<ReportText>& texts, const WindowChoice& choice,
                     int32_t vocab = 264) {
  const auto windows = choose(texts, choice, vocab);
  EXPECT_EQ(windows.status().code(), absl::StatusCode::kInvalidArgument) << windows.status();
  return std::string(windows.status().message());
}

TEST(TextWindows, LieInTheMiddleOfEachPart) {
  const auto windows = choose({{"a", "abcdefghijkl"}, {"b", "mnopqrst"}}, {3, 2});
  ASSERT_TRUE(windows.ok()) << windows.status();
  ASSERT_EQ(windows->size(), 4u);
  EXPECT_EQ((*windows)[0].text, 0u);
  EXPECT_THAT((*windows)[0].tokens, ElementsAre(testing::kTinyBos, 'c', 'd'));
  EXPECT_THAT((*windows)[1].tokens, ElementsAre(testing::kTinyBos, 'i', 'j'));
  EXPECT_EQ((*windows)[2].text, 1u);
  EXPECT_THAT((*windows)[2].tokens, ElementsAre(testing::kTinyBos, 'n', 'o'));
  EXPECT_THAT((*windows)[3].tokens, ElementsAre(testing::kTinyBos, 'r', 's'));
}

TEST(TextWindows, TakeAWholeTextThatIsJustLongEnough) {
  const auto windows = choose({{"a", "abc"}}, {4, 1});
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_THAT((*windows)[0].tokens, ElementsAre(testing::kTinyBos, 'a', 'b', 'c'));
}

TEST(TextWindows, RefuseWhatTheyCannotCut) {
  EXPECT_THAT(error_of({{"long", "abcdefgh"}, {"short", "abcde"}}, {4, 2}),
              HasSubstr("short: has 5 tokens; 2 windows of 4 tokens need 6: give a longer text"));
  EXPECT_THAT(error_of({{"bad", "ab\xff"}}, {2, 1}), HasSubstr("bad: "));
  EXPECT_THAT(error_of({{"big", "abcz"}}, {2, 1}, 'z'),
              HasSubstr("big: has token 122 (z), but config.json's vocab_size is 122"));
  EXPECT_THAT(error_of({{"a", "abc"}}, {1, 1}),
              HasSubstr("window_tokens: must be more than the 1 tokens that begin every text"));
}

}  // namespace
}  // namespace kascade::format_report
