// Tests models whose vocabulary is not that of their tokenizer: rows without a token, which stand
// for an empty text everywhere, and tokens without a row, which refuse the texts that have them.
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/server_fixture.h"
#include "tests/support/shared_data.h"

namespace kascade::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kRows = 280;

class PaddedVocabularyTest : public ::testing::Test {
 protected:
  // The tokenizer has kTinyTokenizerIds ids.
  PaddedVocabularyTest() {
    write_tiny_model({.context = 512, .vocab = kRows}, dir_.path());
    server_ = std::make_unique<TestServer>(server_options(dir_.path()));
  }

  grpc::Status detokenize(const std::vector<int32_t>& ids, bool skip_special, std::string& text) {
    v1::DetokenizeRequest request;
    request.mutable_token_ids()->Add(ids.begin(), ids.end());
    request.set_skip_special_tokens(skip_special);
    v1::DetokenizeResponse response;
    grpc::ClientContext context;
    grpc::Status status = server_->inference->Detokenize(&context, request, &response);
    text = response.text();
    return status;
  }

  TempDir dir_;
  std::unique_ptr<TestServer> server_;
};

TEST_F(PaddedVocabularyTest, DetokenizeGivesNoTextForThem) {
  std::string text;
  const std::pair<std::vector<int32_t>, std::string> cases[] = {
      {{'a', kTinyTokenizerIds, 'b'}, "ab"},
      {{kRows - 1}, ""},
      {{270, 'a', 271, 272, 'b', 279}, "ab"},
      {{0xc3, 270, 0xa9}, "\u00e9"}};
  for (const auto& [ids, expected] : cases) {
    for (const bool skip_special : {true, false}) {
      const grpc::Status status = detokenize(ids, skip_special, text);
      EXPECT_TRUE(status.ok()) << status.error_message();
      EXPECT_EQ(text, expected);
    }
  }
  for (const int32_t id : {kRows, kRows + 100, INT32_MAX, -1}) {
    expect(detokenize({'a', id}, true, text), bad("token_ids[1]", "UNKNOWN_TOKEN"), "no row");
  }
}

TEST_F(PaddedVocabularyTest, GenerateTakesAndGivesThem) {
  for (const int32_t padding : {kTinyTokenizerIds, 270, kRows - 1}) {
    v1::GenerateRequest request;
    for (const int32_t id : {int32_t{'a'}, padding}) {
      request.mutable_token_ids()->add_ids(id);
    }
    request.mutable_sampling()->set_temperature(0);
    auto& bias = *request.mutable_sampling()->add_logit_bias();
    bias.set_token_id(padding);
    bias.set_bias(100);
    request.mutable_stopping()->set_max_new_tokens(2);
    request.mutable_response()->set_token_ids(true);
    request.mutable_response()->set_logprobs(true);
    request.mutable_response()->set_top_logprobs(2);
    const auto stream = generate(*server_, request);
    ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
    std::string text;
    std::vector<int32_t> ids;
    for (const auto& message : stream.messages) {
      text += message.delta().text();
      ids.insert(ids.end(), message.delta().token_ids().begin(), message.delta().token_ids().end());
    }
    EXPECT_EQ(text, "");
    EXPECT_THAT(ids, ElementsAre(padding, padding));
    // And as a token that ends the answer.
    request.mutable_stopping()->add_stop_token_ids(padding);
    const auto stopped = generate(*server_, request);
    ASSERT_TRUE(stopped.status.ok()) << stopped.status.error_message();
    EXPECT_EQ(stopped.messages.back().finished().reason(), v1::FINISH_REASON_STOP_TOKEN);
  }
}

TEST_F(PaddedVocabularyTest, ScoreTakesThem) {
  for (const int32_t padding : {kTinyTokenizerIds, 270, kRows - 1}) {
    v1::ScoreRequest request;
    auto& ids = *request.add_inputs()->mutable_token_ids();
    for (const int32_t id : {int32_t{'a'}, padding, int32_t{'b'}}) ids.add_ids(id);
    request.mutable_response()->set_tokens(true);
    const v1::ScoreSummary total = total_of(score(*server_, request));
    EXPECT_EQ(total.tokens_scored(), 2);
    EXPECT_GT(total.nll_sum(), 0);
  }
}

// ---- Tokens without a row ----

class MissingRowTest : public ::testing::Test {
 protected:
  // "<pad>" was added to the tokenizer later, and so was a special token.
  MissingRowTest() {
    write_tiny_model({.context = 512}, dir_.path());
    nlohmann::json tokenizer = tiny_tokenizer();
    nlohmann::json pad = tokenizer["added_tokens"][0];
    pad["id"] = 300;
    pad["content"] = "<pad>";
    pad["special"] = false;
    tokenizer["added_tokens"].push_back(pad);
    pad["id"] = 264;
    pad["content"] = "<|mark|>";
    pad["special"] = true;
    tokenizer["added_tokens"].push_back(pad);
    write_file(dir_ / "tokenizer.json", tokenizer.dump());
    server_ = std::make_unique<TestServer>(server_options(dir_.path()));
  }
  static v1::GenerateRequest prompt(const std::string& text, bool parse_special = false) {
    v1::GenerateRequest request;
    request.set_text(text);
    request.set_parse_special_tokens(parse_special);
    request.mutable_stopping()->set_max_new_tokens(1);
    return request;
  }

  TempDir dir_;
  std::unique_ptr<TestServer> server_;
};

TEST_F(MissingRowTest, OnlyTextsThatHaveOneAreRefused) {
  EXPECT_TRUE(generate(*server_, prompt("in the")).status.ok());
  EXPECT_TRUE(generate(*server_, prompt("<|mark|>")).status.ok());  // plain text
  const Expected unknown = bad("text", "UNKNOWN_TOKEN");
  for (const char* text : {"<pad>", "in <pad> the", "<pad><pad>"}) {
    const auto stream = generate(*server_, prompt(text));
    expect(stream.status, unknown, text);
    EXPECT_THAT(stream.status.error_message(), HasSubstr("<pad> with the id 300"));
    EXPECT_THAT(stream.status.error_message(), HasSubstr("vocabulary has 264 ids"));
  }
  expect(generate(*server_, prompt("<|mark|>", true)).status, unknown, "special token");
}

TEST_F(MissingRowTest, AllRequestsRefuseThemAlike) {
  v1::TokenizeRequest tokenize;
  tokenize.add_texts("a");
  tokenize.add_texts("a<pad>");
  v1::TokenizeResponse tokens;
  grpc::ClientContext tokenize_context;
  expect(server_->inference->Tokenize(&tokenize_context, tokenize, &tokens),
         bad("texts[1]", "UNKNOWN_TOKEN"), "tokenize");
  v1::ScoreRequest scoring;
  scoring.add_inputs()->set_text("in the <pad>");
  expect(score(*server_, scoring).status, bad("inputs[0].text", "UNKNOWN_TOKEN"), "score");
  v1::CalibrateRequest calibration;
  calibration.add_texts("in the <pad>");
  expect(calibrate(*server_, calibration).status, bad("texts[0]", "UNKNOWN_TOKEN"), "calibrate");
  v1::DetokenizeRequest detokenize;
  detokenize.add_token_ids(300);
  v1::DetokenizeResponse text;
  grpc::ClientContext detokenize_context;
  expect(server_->inference->Detokenize(&detokenize_context, detokenize, &text),
         bad("token_ids[0]", "UNKNOWN_TOKEN"), "detokenize");
}

TEST_F(MissingRowTest, ABosThatTheModelLacksRefusesTheModel) {
  server_.reset();
  nlohmann::json tokenizer = nlohmann::json::parse(read_file(dir_ / "tokenizer.json"));
  tokenizer["post_processor"]["special_tokens"].begin().value()["ids"] = {300};
  write_file(dir_ / "tokenizer.json", tokenizer.dump());
  const auto started = server::Server::start(server_options(dir_.path()));
  EXPECT_THAT(std::string(started.status().message()),
              HasSubstr("begins every text with token 300 (<pad>)"));
}

}  // namespace
}  // namespace kascade::testing
