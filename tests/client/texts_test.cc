// The texts of calibrate and score: files, lines, and the names that errors give them.
#include "client/commands/texts.h"

#include <fstream>
#include <string>
#include <vector>

#include "client/rpc/score_requests.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tiny_model.h"

namespace kascade::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TextsTest : public ::testing::Test {
 protected:
  std::string file(const std::string& name, const std::string& content) {
    const std::string path = (dir_ / name).string();
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  testing::TempDir dir_;
};

std::vector<std::string> contents(const std::vector<NamedText>& texts) {
  std::vector<std::string> out;
  for (const NamedText& text : texts) out.push_back(text.text);
  return out;
}

TEST_F(TextsTest, WholeFilesByDefault) {
  const std::string a = file("a.txt", "one\n\ntwo\n"), b = file("b.txt", "three");
  const auto texts = read_named_texts({a, b}, {});
  ASSERT_TRUE(texts.ok()) << texts.status();
  EXPECT_THAT(contents(*texts), ElementsAre("one\n\ntwo\n", "three"));
  EXPECT_EQ(texts->front().name(), a);
}

// As WikiText has them: empty rows, rows of one space, headings, ends of lines of other systems.
TEST_F(TextsTest, EachLineWithMoreThanWhiteSpaceIsAText) {
  const std::string a = file("a.txt", " \n = Title = \n\n The first row .\r\n\t \r\nlast");
  const auto texts = read_named_texts({a, file("b.txt", "b\n")}, {.lines = true});
  ASSERT_TRUE(texts.ok()) << texts.status();
  EXPECT_THAT(contents(*texts), ElementsAre(" = Title = ", " The first row .", "last", "b"));
  EXPECT_EQ((*texts)[1].name(), a + ":4");
  EXPECT_EQ((*texts)[2].line, 6);
  EXPECT_EQ((*texts)[3].line, 1);
}

TEST_F(TextsTest, AFileWithoutSuchALineIsRefused) {
  const std::string blank = file("blank.txt", "\n \n\t\n");
  const auto texts = read_named_texts({blank}, {.lines = true});
  EXPECT_EQ(texts.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(texts.status().message()), HasSubstr(blank));
}

TEST_F(TextsTest, TheKindOfATextIsNamedOrTheFilesName) {
  const std::string a = file("a.txt", "a"), b = file("b.txt", "b\n\nc\n");
  const auto texts = read_texts_of_kinds({a, "prose=" + a, "rows=" + b}, {.lines = true});
  ASSERT_TRUE(texts.ok()) << texts.status();
  std::vector<std::string> kinds;
  for (const NamedText& text : *texts) kinds.push_back(text.kind);
  EXPECT_THAT(kinds, ElementsAre("a.txt", "prose", "rows", "rows"));
  EXPECT_EQ(texts->back().name(), b + ":3");
}

TEST_F(TextsTest, AnEqualsSignInTheNameOfAFileNamesNoKind) {
  const std::string strange = file("x=y.txt", "a");
  const auto texts = read_texts_of_kinds({strange, "kind=" + strange}, {});
  ASSERT_TRUE(texts.ok()) << texts.status();
  EXPECT_EQ(texts->at(0).kind, "x=y.txt");
  EXPECT_EQ(texts->at(0).name(), strange);
  EXPECT_EQ(texts->at(1).kind, "kind");
  EXPECT_EQ(texts->at(1).name(), strange);
  const auto long_name = read_texts_of_kinds({file(std::string(63, 'n') + "ä", "a")}, {});
  ASSERT_TRUE(long_name.ok()) << long_name.status();
  EXPECT_EQ(long_name->at(0).kind, std::string(63, 'n'));
}

TEST(TextNames, StandForTheFieldsOfTheApi) {
  const std::vector<NamedText> texts = {{.file = "a.txt", .line = 3}, {.file = "-"}};
  const auto named = [&](const char* message) {
    return std::string(
        with_text_names(absl::InvalidArgumentError(message), "inputs", texts).message());
  };
  EXPECT_EQ(named("inputs[0]: nothing to score"), "a.txt:3: nothing to score");
  EXPECT_EQ(named("inputs[1].text: is not UTF-8"), "standard input: is not UTF-8");
  EXPECT_EQ(named("inputs[2]: beyond the texts"), "inputs[2]: beyond the texts");
  EXPECT_EQ(named("inputs[x]: no number"), "inputs[x]: no number");
  EXPECT_EQ(named("inputs[0] without a colon"), "inputs[0] without a colon");
  EXPECT_EQ(named("the server is going down"), "the server is going down");
}

std::vector<std::pair<size_t, size_t>> ranges(const std::vector<NamedText>& texts) {
  std::vector<std::pair<size_t, size_t>> out;
  for (const TextRange& range : request_ranges(texts)) out.emplace_back(range.begin, range.end);
  return out;
}

TEST(RequestRanges, HoldAsManyTextsAsARequestMay) {
  using Range = std::pair<size_t, size_t>;
  EXPECT_THAT(ranges(std::vector<NamedText>(1)), ElementsAre(Range(0, 1)));
  EXPECT_THAT(ranges(std::vector<NamedText>(4096)), ElementsAre(Range(0, 4096)));
  EXPECT_THAT(ranges(std::vector<NamedText>(4097)), ElementsAre(Range(0, 4096), Range(4096, 4097)));
  EXPECT_THAT(ranges(std::vector<NamedText>(9000)),
              ElementsAre(Range(0, 4096), Range(4096, 8192), Range(8192, 9000)));
  std::vector<NamedText> large(4);
  for (const size_t i : {0, 1}) large[i].text.assign(size_t{9} << 20, 'x');
  large[2].text.assign(size_t{40} << 20, 'x');  // larger than a request should be: alone in its own
  EXPECT_THAT(ranges(large), ElementsAre(Range(0, 1), Range(1, 2), Range(2, 3), Range(3, 4)));
}

TEST(RequestRanges, AreSmallWhereServersShareThem) {
  EXPECT_EQ(request_ranges(std::vector<NamedText>(65), kSharedRequest).size(), 2u);
  std::vector<NamedText> files(3);
  for (NamedText& file : files) file.text.assign(200'000, 'x');
  EXPECT_EQ(request_ranges(files, kSharedRequest).size(), 3u);
}

}  // namespace
}  // namespace kascade::client
