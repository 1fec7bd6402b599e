// Tests the values of --first and --second, and the requests that result from them.
#include "client/commands/attention_flags.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::AttentionChoice choice(const std::string& text) {
  const auto parsed = parse_choice(text);
  EXPECT_TRUE(parsed.ok()) << text << ": " << parsed.status();
  return parsed.value_or(v1::AttentionChoice{});
}

TEST(ParseChoice, TakesEveryWayToAttend) {
  EXPECT_TRUE(choice("dense").has_dense());
  EXPECT_TRUE(choice("schedule").has_schedule());
  EXPECT_FALSE(choice("schedule").schedule().has_schedule_id());
  const v1::AttentionChoice named = choice("schedule:0ab1,ratio=0.25");
  EXPECT_EQ(named.schedule().schedule_id(), "0ab1");
  EXPECT_EQ(named.schedule().ratio(), 0.25);
  EXPECT_EQ(text_of(named), "schedule 0ab1 with ratio 0.25");
  const v1::AttentionChoice quest =
      choice("quest,ratio=0.2,min_keys=64,page_size=8,dense_layers=0+3");
  EXPECT_EQ(quest.baseline().kind(), v1::BASELINE_KIND_QUEST);
  EXPECT_EQ(quest.baseline().ratio(), 0.2);
  EXPECT_EQ(quest.baseline().min_keys(), 64);
  EXPECT_EQ(quest.baseline().page_size(), 8);
  EXPECT_FALSE(quest.baseline().has_sink_keys());
  EXPECT_THAT(quest.baseline().dense_layers().layers(), ElementsAre(0, 3));
  EXPECT_TRUE(choice("streaming,dense_layers=none").baseline().has_dense_layers());
  EXPECT_EQ(choice("streaming,sink_keys=2").baseline().sink_keys(), 2);
  EXPECT_EQ(choice("window,window=128").baseline().window(), 128);
  EXPECT_FALSE(choice("window,window=128").baseline().has_chunk());
  EXPECT_EQ(choice("chunk,chunk=512,dense_layers=3").baseline().chunk(), 512);
}

TEST(ParseChoice, SaysWhatIsWrong) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "must begin with dense"},
      {"sparse", "must begin with dense"},
      {"schedule:", "must begin with dense"},
      {"dense,ratio=1", "ratio is no setting of dense"},
      {"schedule,min_keys=3", "min_keys is no setting of a schedule"},
      {"quest,pages=3", "pages is no setting of a baseline"},
      {"quest,ratio=", "ratio: not a number"},
      {"quest,ratio", "ratio: not a number"},
      {"quest,min_keys=3x", "min_keys: not a number: 3x"},
      {"window", "needs a number: window,window=N"},
      {"chunk,dense_layers=0", "needs a number: chunk,chunk=N"},
      {"chunk,chunk=x", "chunk: not a number: x"},
      {"quest,dense_layers=0,1", "1: not a number"}};
  for (const auto& [text, words] : cases) {
    const auto parsed = parse_choice(text);
    EXPECT_FALSE(parsed.ok()) << text;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(words)) << text;
  }
}

TEST(AttentionOf, FirstOrSecondAskForAComparison) {
  EXPECT_FALSE(attention_of({}).has_value());
  AttentionFlags flags;
  flags.second = "dense";
  const auto attention = attention_of(flags);
  ASSERT_TRUE(attention.has_value());
  EXPECT_EQ(attention->mode(), v1::ATTENTION_MODE_COMPARE);
  EXPECT_FALSE(attention->has_first());
  EXPECT_TRUE(attention->second().has_dense());
}

}  // namespace
}  // namespace kascade::client
