// The questions for pass keys: their lengths, what they hide, and where their answers begin.
#include "engine/calibration/pass_keys.h"

#include <memory>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class PassKeysTest : public ::testing::Test {
 protected:
  PassKeysTest() : tokenizer_(parse_tokenizer_json(tiny_tokenizer().dump()).value()) {
    text_ = tokenizer_->encode(std::string(9000, 'x'), {.add_special_tokens = false}).value();
  }
  std::vector<QuestionsOfLength> ask(const PassKeySettings& settings) const {
    return pass_key_questions(*tokenizer_, text_, settings).value();
  }
  std::string text_of(const std::vector<Token>& tokens) const {
    return tokenizer_->decode(tokens, /*skip_special=*/false).value();
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<Token> text_;
};

TEST_F(PassKeysTest, LengthsAreHalvedDownTo1024) {
  const auto lengths = [&](int32_t most) {
    std::vector<int32_t> all;
    for (const QuestionsOfLength& length : ask({.most_tokens = most, .tokens = 1})) {
      all.push_back(length.tokens);
    }
    return all;
  };
  EXPECT_THAT(lengths(4096), ElementsAre(1024, 2048, 4096));
  EXPECT_THAT(lengths(3000), ElementsAre(1500, 3000));
  EXPECT_THAT(lengths(600), ElementsAre(600));
  EXPECT_THAT(lengths(255), ElementsAre());
  EXPECT_THAT(lengths(100000), ElementsAre(1125, 2250, 4500, 9000));  // as the text allows
}

TEST_F(PassKeysTest, EachLengthHasAShareOfTheTokens) {
  const auto counts = [&](int64_t tokens) {
    std::vector<size_t> all;
    for (const auto& length : ask({.most_tokens = 4096, .tokens = tokens})) {
      all.push_back(length.questions.size());
    }
    return all;
  };
  EXPECT_THAT(counts(65536), ElementsAre(20, 10, 5));
  EXPECT_THAT(counts(1), ElementsAre(4, 4, 4));
  EXPECT_THAT(counts(int64_t{1} << 40), ElementsAre(20, 20, 20));
  EXPECT_EQ(count_tokens(ask({.most_tokens = 4096, .tokens = 1})), 4 * (1024 + 2048 + 4096));
}

// Keys and owners of a question, in the order of its statements.
struct Hidden {
  std::vector<std::string> owners{}, keys{};
};
Hidden hidden_in(const std::string& text) {
  static const std::regex kStatement("The pass key for (\\w+) is (\\d{5})\\. Remember it\\.");
  Hidden hidden;
  for (std::sregex_iterator at(text.begin(), text.end(), kStatement), end; at != end; ++at) {
    hidden.owners.push_back((*at)[1]);
    hidden.keys.push_back((*at)[2]);
  }
  return hidden;
}

TEST_F(PassKeysTest, TheAnswerIsTheKeyOfTheOwnerThatIsAskedFor) {
  std::set<std::string> asked;
  size_t number = 0;
  const auto all = ask({.most_tokens = 1024, .tokens = 20480});
  ASSERT_EQ(all.at(0).questions.size(), 20u);
  for (const Question& question : all.at(0).questions) {
    ASSERT_EQ(question.tokens.size(), 1024u);
    EXPECT_EQ(question.tokens.front(), kTinyBos);
    const std::string text = text_of(question.tokens);
    const Hidden hidden = hidden_in(text);
    ASSERT_EQ(hidden.keys.size(), number++ % 2 == 0 ? 1u : 4u) << text;
    EXPECT_EQ(std::set(hidden.owners.begin(), hidden.owners.end()).size(), hidden.owners.size());
    const auto split = question.tokens.begin() + question.answer_begin;
    const std::string answer = text_of({split, question.tokens.end()});
    const auto key = std::ranges::find(hidden.keys, answer.substr(1));
    ASSERT_NE(key, hidden.keys.end()) << answer;
    EXPECT_EQ(answer.front(), ' ');
    const std::string owner = hidden.owners[key - hidden.keys.begin()];
    EXPECT_TRUE(text_of({question.tokens.begin(), split})
                    .ends_with("\n\nWhat is the pass key for " + owner + "? The pass key for " +
                               owner + " is"));
    asked.insert(answer);
  }
  EXPECT_EQ(asked.size(), 20u);
}

TEST_F(PassKeysTest, TheSameQuestionsAreAskedAgain) {
  const PassKeySettings settings{.most_tokens = 1024, .tokens = 8192};
  const auto first = ask(settings), second = ask(settings);
  for (size_t i = 0; i < first.at(0).questions.size(); ++i) {
    EXPECT_EQ(first[0].questions[i].tokens, second.at(0).questions.at(i).tokens);
  }
}

// With a chat the question stands in the user's turn, and the answer begins in the model's own.
TEST(PassKeysInAChat, TheAnswerFollowsTheTemplate) {
  KASCADE_NEEDS_DATA("tokenizers/smollm2/tokenizer.json");
  const auto folder = shared_data() / "tokenizers" / "smollm2";
  const auto tokenizer = open_tokenizer(folder).value();
  std::string words;
  for (int i = 0; i < 3000; ++i) words += " word" + std::to_string(i % 7);
  const auto text = tokenizer->encode(words, {.add_special_tokens = false}).value();
  const auto all = pass_key_questions(
      *tokenizer, text, {.most_tokens = 1024, .tokens = 4096, .chat_format = ChatFormat::kSmolLm2});
  ASSERT_TRUE(all.ok()) << all.status();
  for (const Question& question : all->at(0).questions) {
    EXPECT_EQ(question.tokens.size(), 1024u);
    const auto split = question.tokens.begin() + question.answer_begin;
    const std::string prompt =
        tokenizer->decode(std::vector(question.tokens.begin(), split), false).value();
    EXPECT_THAT(prompt, StartsWith("<|im_start|>system\n"));
    EXPECT_THAT(prompt, HasSubstr("<|im_start|>user\n"));
    EXPECT_TRUE(std::regex_search(
        prompt, std::regex("\n\nWhat is the pass key for (\\w+)\\?<\\|im_end\\|>\n"
                           "<\\|im_start\\|>assistant\nThe pass key for \\1 is$")))
        << prompt.substr(prompt.size() - 200);
    const std::string answer =
        tokenizer->decode(std::vector(split, question.tokens.end()), false).value();
    EXPECT_TRUE(std::regex_match(answer, std::regex(" \\d{5}"))) << answer;
  }
}

}  // namespace
}  // namespace kascade::testing
