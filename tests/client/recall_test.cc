// Tests the parts of `kascade eval --suite recall` that need no server: prompts with several pass
// keys and in a chat, answers, lengths, the sign test, and what is reported.
#include "client/eval/recall.h"

#include <algorithm>
#include <string>
#include <vector>

#include "client/eval/prompt_style.h"
#include "client/eval/recall_report.h"
#include "client/eval/sign_test.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Against exact integer arithmetic.
TEST(SignTest, IsTheExactTwoSidedBinomialTail) {
  EXPECT_EQ(sign_test_p_value(0, 0), 1);
  EXPECT_EQ(sign_test_p_value(3, 3), 1);
  EXPECT_NEAR(sign_test_p_value(1, 0), 1, 1e-12);
  EXPECT_NEAR(sign_test_p_value(5, 0), 2.0 / 32, 1e-12);
  EXPECT_NEAR(sign_test_p_value(8, 1), 20.0 / 512, 1e-12);
  EXPECT_NEAR(sign_test_p_value(1, 8), 20.0 / 512, 1e-12);
  EXPECT_NEAR(sign_test_p_value(500, 600), 0.0028195449914364275, 1e-9);
  EXPECT_NEAR(sign_test_p_value(1050, 950), 0.026824146240280695, 1e-9);
}

TEST(PromptFrameTest, IsWhatTwoPromptsShareAtBothEnds) {
  const PromptFrame frame = frame_of({1, 2, 50, 51, 8, 9}, {1, 2, 60, 61, 62, 8, 9});
  EXPECT_THAT(frame.before, ElementsAre(1, 2));
  EXPECT_THAT(frame.after, ElementsAre(8, 9));
  // One is a part of the other: beginning and end do not overlap.
  const PromptFrame part = frame_of({1, 1, 1}, {1, 1});
  EXPECT_EQ(part.before.size() + part.after.size(), 2u);
  EXPECT_TRUE(frame_of({1}, {2}).before.empty());
  EXPECT_TRUE(frame_of({1}, {2}).after.empty());
}

// One token per character.
absl::StatusOr<std::vector<std::vector<int32_t>>> encode_bytes(
    const std::vector<std::string>& texts) {
  std::vector<std::vector<int32_t>> encoded;
  for (const std::string& text : texts) encoded.emplace_back(text.begin(), text.end());
  return encoded;
}

TEST(SeveralPassKeys, AllStandInTheMessageAndOneIsAskedFor) {
  const PassKeyOptions options{.cases = 20, .tokens = 1200, .keys = 4, .seed = 3};
  const PromptFrame frame{.before = {'<', 'u', '>'}, .after = {'<', 'a', '>'}};
  const auto cases =
      draw_pass_keys(options, chat_wording(), std::vector<int32_t>(3000, '.'), frame, encode_bytes);
  ASSERT_TRUE(cases.ok()) << cases.status();
  for (const PassKeyCase& one : *cases) {
    const std::string text(one.prompt.begin(), one.prompt.end());
    EXPECT_EQ(text.size(), 1200u);
    EXPECT_TRUE(text.starts_with("<u>"));
    EXPECT_TRUE(text.ends_with("? Answer with the five digits.<a>")) << text.substr(1100);
    size_t statements = 0;
    for (size_t at = text.find("Remember"); at != std::string::npos;
         at = text.find("Remember", at + 1)) {
      ++statements;
    }
    EXPECT_EQ(statements, 4u);
    // The key that is asked for is that of the name in the question.
    const size_t question = text.rfind("What is the pass key for ") + 25;
    const std::string name = text.substr(question, text.find('?', question) - question);
    EXPECT_THAT(text, HasSubstr("The pass key for " + name + " is " + one.key + "."));
  }
}

TEST(SeveralPassKeys, DoNotFitAShortPrompt) {
  const auto cases = draw_pass_keys({.cases = 1, .tokens = 150, .keys = 4}, chat_wording(),
                                    std::vector<int32_t>(3000, '.'), {}, encode_bytes);
  EXPECT_THAT(std::string(cases.status().message()),
              HasSubstr("a prompt of 150 tokens is too short: its pass keys (4)"));
}

TEST(PromptStyleTest, AChatMayAnswerInASentence) {
  const PromptStyle chat{.is_chat = true}, plain{};
  for (const char* text : {"12345", " 12345.", "The pass key for Ruth is 12345. Remember it."}) {
    EXPECT_TRUE(chat.is_answer(text, "12345")) << text;
  }
  EXPECT_TRUE(plain.is_answer("\n 12345. Then", "12345"));
  EXPECT_FALSE(plain.is_answer("The pass key is 12345", "12345"));
  for (const PromptStyle& style : {chat, plain}) {
    for (const char* text : {"", "no", "123456", "1234", "54321 or 12345", "9 12345"}) {
      EXPECT_FALSE(style.is_answer(text, "12345")) << text;
    }
  }
}

TEST(PromptStyleTest, AutoAsksInAChatWhereTheServerKnowsATemplate) {
  v1::ModelInfo model;
  EXPECT_FALSE(wants_chat("auto", model));
  EXPECT_TRUE(wants_chat("on", model));
  model.set_chat_format(v1::CHAT_FORMAT_SMOLLM2);
  EXPECT_TRUE(wants_chat("auto", model));
  EXPECT_FALSE(wants_chat("off", model));
  EXPECT_EQ(describe({.is_chat = true}, model), "chat in the format smollm2");
  EXPECT_EQ(describe({}, model), "plain text");
}

TEST(RecallLengths, DoubleUpToTheLongestPrompt) {
  EXPECT_THAT(*recall_lengths({}, 8180, 20000), ElementsAre(1024, 2048, 4096, 8180));
  EXPECT_THAT(*recall_lengths({}, 4096, 20000), ElementsAre(1024, 2048, 4096));
  EXPECT_THAT(*recall_lengths({}, 500, 20000), ElementsAre(500));
  // As far as the text reaches.
  EXPECT_THAT(*recall_lengths({}, 131060, 11000), ElementsAre(1024, 2048, 4096, 8192));
  EXPECT_THAT(*recall_lengths({2048, 512, 2048}, 4084, 5000), ElementsAre(512, 2048));
}

TEST(RecallLengths, BeyondModelOrTextAreRefused) {
  EXPECT_THAT(std::string(recall_lengths({1024, 5000}, 4084, 9000).status().message()),
              HasSubstr("--lengths: must be at most 4084"));
  EXPECT_THAT(std::string(recall_lengths({2048}, 4084, 2000).status().message()),
              HasSubstr("--held-out: the text has 2000 tokens, prompts of 2048 tokens need"));
  EXPECT_THAT(std::string(recall_lengths({}, 4084, 600).status().message()),
              HasSubstr("the text has 600 tokens, prompts of 1024 tokens need as many"));
}

TEST(RecallLengths, ContextWindowAndCacheLimitAPrompt) {
  v1::GetModelInfoResponse info;
  info.mutable_model()->set_context_length(8192);
  const PromptStyle style{.answer_tokens = 32};
  EXPECT_EQ(longest_prompt(info, style), 8160);
  info.mutable_limits()->set_cache_tokens(6000);
  EXPECT_EQ(longest_prompt(info, style), 5968);
  info.mutable_model()->set_sliding_window(4096);
  EXPECT_EQ(longest_prompt(info, style), 4064);
}

std::vector<RecallCell> cells_of(int32_t keys, double first, double second) {
  return {{.tokens = 2048,
           .keys = keys,
           .depth = first,
           .cases = 10,
           .dense_found = 9,
           .sparse_found = 4,
           .dense_only = 5},
          {.tokens = 2048,
           .keys = keys,
           .depth = second,
           .cases = 10,
           .dense_found = 8,
           .sparse_found = 6,
           .dense_only = 3,
           .sparse_only = 1}};
}

TEST(RecallReport, HasCountsDifferenceAndSignTestOfEachLength) {
  EXPECT_THAT(recall_findings(cells_of(1, 0.25, 0.75)),
              ElementsAre("Pass keys in 2048 tokens: 17/20 found dense, 10/20 sparse. Dense less "
                          "sparse: +35.0 points, p = 0.0391 (two-sided sign test)."));
  EXPECT_THAT(recall_findings(cells_of(4, -1, -1)).front(),
              HasSubstr("One of 4 pass keys in 2048 tokens: 17/20 found dense"));
  EXPECT_TRUE(recall_findings({}).empty());
  const Json json = recall_json(cells_of(1, 0.25, 0.75), cells_of(4, -1, -1));
  EXPECT_EQ(json["pass_keys"][0]["depth"], 0.25);
  EXPECT_TRUE(json["several_pass_keys"][0]["depth"].is_null());
  ASSERT_EQ(json["by_length"].size(), 2u);
  EXPECT_EQ(json["by_length"][1]["keys"], 4);
  EXPECT_EQ(json["by_length"][0]["dense_only"], 8);
  EXPECT_DOUBLE_EQ(json["by_length"][0]["difference_points"], 35);
  EXPECT_NEAR(json["by_length"][0]["p_value"], 20.0 / 512, 1e-12);
}

}  // namespace
}  // namespace kascade::client
