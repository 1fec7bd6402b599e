#include "tools/train/question_texts.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "engine/tokenizer/tokenizer.h"
#include "tests/support/tiny_model.h"
#include "tools/train/training_texts.h"

namespace kascade::train {
namespace {

Question only(QuestionTask task, const std::string& line) {
  const auto questions = parse_questions(task, line, "file");
  EXPECT_TRUE(questions.ok()) << questions.status();
  return questions->at(0);
}

std::string fault(QuestionTask task, const std::string& content) {
  return std::string(parse_questions(task, content, "file").status().message());
}

TEST(Questions, OfGsm8kHaveAStepForEachLineButTheResult) {
  const Question question =
      only(QuestionTask::kGsm8k,
           R"({"question": "How many? ", "answer": "2 and 3.\n2 + 3 = 5\n#### 5"})");
  EXPECT_EQ(question.answer,
            "## Step 1: 2 and 3.\n## Step 2: 2 + 3 = 5\nThe final answer is: $\\boxed{5}$");
  EXPECT_TRUE(question.prompt.ends_with("Problem: How many?"));
}

TEST(Questions, OfOtherTasksHaveTheSameForm) {
  EXPECT_EQ(only(QuestionTask::kStrategyQa,
                 R"({"question": "Is it?", "facts": ["It is."], "answer": true})")
                .answer,
            "## Step 1: It is.\nThe final answer is: $\\boxed{yes}$");
  const Question choice =
      only(QuestionTask::kAqua, R"({"question": "Which?", "options": ["A)1", "B)2"], )"
                                R"("rationale": "One more.", "correct": "B"})");
  EXPECT_TRUE(choice.prompt.ends_with("Problem: Which?\nA)1\nB)2"));
  EXPECT_EQ(choice.answer, "## Step 1: One more.\nThe final answer is: $\\boxed{B}$");
}

TEST(Questions, FaultsNameTheLineAndTheField) {
  const std::string good = "{\"question\": \"a\", \"answer\": \"b\\n#### 1\"}\n\n";
  EXPECT_EQ(fault(QuestionTask::kGsm8k, good + "{\"question\": 3}"),
            "file:3: question: must be a text");
  EXPECT_EQ(fault(QuestionTask::kGsm8k, good + R"({"question": "a", "answer": "5"})"),
            "file:3: answer: must end with \"#### \" and a result");
  EXPECT_EQ(fault(QuestionTask::kStrategyQa, R"({"question": "a", "answer": "yes"})"),
            "file:1: answer: must be true or false");
  EXPECT_EQ(fault(QuestionTask::kStrategyQa, R"({"question": "a", "facts": [1], "answer": true})"),
            "file:1: facts: must be a list of texts");
  EXPECT_NE(fault(QuestionTask::kGsm8k, "[1]"), "");
  EXPECT_NE(fault(QuestionTask::kGsm8k, "{\"question\": \"a"), "");
}

class TextsTest : public ::testing::Test {
 protected:
  TextsTest() {
    kascade::testing::write_tiny_model({}, folder_.path());
    tokenizer_ = *open_tokenizer(folder_.path());
  }
  std::filesystem::path file(const std::string& content) {
    kascade::testing::write_file(folder_ / "text", content);
    return folder_ / "text";
  }

  kascade::testing::TempDir folder_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(TextsTest, OnlyTheAnswerIsATarget) {
  const Question question{.prompt = "ab", .answer = "cd"};
  const auto text =
      question_text(question, *tokenizer_, std::nullopt, kascade::testing::kTinyEos, 99);
  ASSERT_TRUE(text.ok()) << text.status();
  const int32_t none = training::kNoTarget;
  EXPECT_EQ(text->tokens, (std::vector<int32_t>{256, 'a', 'b', '\n', '\n', 'c', 'd', 257}));
  EXPECT_EQ(text->targets, (std::vector<int32_t>{none, none, none, none, 'c', 'd', 257, none}));
  const auto cut = question_text(question, *tokenizer_, std::nullopt, std::nullopt, 6);
  EXPECT_EQ(cut->targets, (std::vector<int32_t>{none, none, none, none, 'c', none}));
}

TEST_F(TextsTest, FilesAreCutIntoPiecesWhoseLengthsTakeTurns) {
  TextsChoice choice{.lengths = {5, 3}, .held_out_share = 0.3};
  const auto texts = choose_texts({file("abcdefghijklm")}, *tokenizer_, 264, choice);
  ASSERT_TRUE(texts.ok()) << texts.status();
  ASSERT_EQ(texts->training.size(), 3U);  // abcd, ef, ghij; kl is held out, m is left
  EXPECT_EQ(texts->training[1].tokens, (std::vector<int32_t>{256, 'e', 'f'}));
  EXPECT_EQ(texts->training[1].targets, (std::vector<int32_t>{'e', 'f', training::kNoTarget}));
  ASSERT_EQ(texts->held_out.size(), 1U);
  EXPECT_EQ(texts->held_out[0].tokens, (std::vector<int32_t>{256, 'k', 'l'}));
  EXPECT_EQ(texts->tokens, 5 + 3 + 5);
}

TEST_F(TextsTest, FilesThatCannotServeAreNamed) {
  const TextsChoice choice{.lengths = {64}};
  const auto short_text = choose_texts({file("abc")}, *tokenizer_, 264, choice);
  EXPECT_NE(short_text.status().message().find("text: has 3 tokens, too few for two pieces of 64"),
            std::string::npos)
      << short_text.status();
  EXPECT_FALSE(choose_texts({file("\xff\xff")}, *tokenizer_, 264, choice).ok());
  const auto one =
      choose_questions({file(R"({"question": "a", "answer": "#### 1"})")}, QuestionTask::kGsm8k,
                       *tokenizer_, std::nullopt, std::nullopt, choice);
  EXPECT_NE(one.status().message().find("must have at least two questions, has 1"),
            std::string::npos);
}

}  // namespace
}  // namespace kascade::train
