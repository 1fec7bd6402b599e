// Scoring over real gRPC on a tiny random model.
#include <cmath>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/server_fixture.h"

namespace kascade::testing {
namespace {

TEST_F(ServerTest, ScoreGivesTheEnginesLogprobsAndTheirSums) {
  const std::string text = long_text(200);
  v1::ScoreRequest request;
  request.add_inputs()->set_text(text);
  request.add_inputs()->set_text("in the other");
  request.mutable_response()->set_ranks(true);
  const auto stream = score(server(), request);
  const v1::ScoreSummary total = total_of(stream);
  std::vector<v1::ScoreTokens> columns(2);
  std::vector<v1::ScoreSummary> summaries(2);
  for (const auto& message : stream.messages) {
    if (message.has_tokens()) columns[message.tokens().input_index()].MergeFrom(message.tokens());
    if (message.has_summary()) summaries[message.summary().input_index()] = message.summary();
  }
  auto tokens = server()->engine().tokenizer().encode(text, {});
  ASSERT_TRUE(tokens.ok());
  const Reply reply = run(server()->engine(), {.tokens = *tokens, .task = Score{}});
  ASSERT_EQ(columns[0].logprobs_size(), static_cast<int>(reply.tokens.size()));
  double sum = 0;
  for (int i = 0; i < columns[0].logprobs_size(); ++i) {
    EXPECT_NEAR(columns[0].logprobs(i), reply.tokens[i].logprob, 2e-4) << i;
    EXPECT_EQ(columns[0].token_ids(i), reply.tokens[i].token);
    EXPECT_EQ(columns[0].top1(i), columns[0].ranks(i) == 1);
    sum -= columns[0].logprobs(i);
  }
  EXPECT_NEAR(summaries[0].nll_sum(), sum, 1e-3);
  EXPECT_EQ(summaries[0].tokens(), static_cast<int64_t>(tokens->size()));
  EXPECT_EQ(summaries[0].tokens_scored(), static_cast<int64_t>(tokens->size()) - 1);
  EXPECT_EQ(summaries[0].bytes_scored(), static_cast<int64_t>(text.size()));
  EXPECT_EQ(summaries[0].protocol(), v1::SCORE_PROTOCOL_WHOLE);
  EXPECT_NEAR(total.nll_sum(), summaries[0].nll_sum() + summaries[1].nll_sum(), 1e-9);
  EXPECT_EQ(total.tokens_scored(), summaries[0].tokens_scored() + summaries[1].tokens_scored());
  EXPECT_NEAR(total.perplexity(), std::exp(total.nll_sum() / total.tokens_scored()), 1e-9);
  EXPECT_NEAR(total.bits_per_byte(), total.nll_sum() / (text.size() + 12) / std::numbers::ln2,
              1e-9);
  EXPECT_FALSE(total.has_comparison());
}

TEST_F(ServerTest, ALongTextIsScoredInRollingWindows) {
  v1::ScoreRequest request;
  auto& ids = *request.add_inputs()->mutable_token_ids();
  for (int i = 0; i < 1300; ++i) ids.add_ids(i * 7 % 250);
  request.mutable_response()->set_tokens(true);
  const auto stream = score(server(), request);
  const v1::ScoreSummary total = total_of(stream);
  EXPECT_EQ(total.protocol(), v1::SCORE_PROTOCOL_ROLLING);
  EXPECT_EQ(total.windows(), 3);
  EXPECT_EQ(total.tokens(), 1300);
  EXPECT_EQ(total.tokens_scored(), 1299);
  int64_t next = 1;
  for (const auto& message : stream.messages) {
    if (!message.has_tokens()) continue;
    EXPECT_EQ(message.tokens().first_position(), next);
    for (int i = 0; i < message.tokens().token_ids_size(); ++i) {
      EXPECT_EQ(message.tokens().token_ids(i), next++ * 7 % 250);
    }
  }
  EXPECT_EQ(next, 1300);
}

// Each token is read some five hundred times; a client that leaves ends that soon.
TEST_F(ServerTest, ACancelledScoreOfManyOverlappingWindowsEndsSoon) {
  v1::ScoreRequest request;
  request.add_inputs()->set_text(long_text(200'000));
  request.set_protocol(v1::SCORE_PROTOCOL_STRIDED);
  request.set_stride_tokens(1);
  grpc::ClientContext context;
  auto reader = server().inference->Score(&context, request);
  v1::ScoreResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_GT(message.started().windows(), 50'000);
  ASSERT_TRUE(reader->Read(&message));
  context.TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(all_blocks_free(server()));
}

TEST_F(ServerTest, ContextIsNotScored) {
  v1::ScoreRequest request;
  request.add_inputs()->set_text("in the other corner");
  auto& split = *request.add_inputs();
  split.set_context("in the ");
  split.set_text("other corner");
  request.mutable_response()->set_tokens(true);
  const auto stream = score(server(), request);
  total_of(stream);
  std::vector<v1::ScoreTokens> columns(2);
  for (const auto& message : stream.messages) {
    if (message.has_tokens()) columns[message.tokens().input_index()].MergeFrom(message.tokens());
  }
  const int whole = columns[0].logprobs_size();
  const int scored = columns[1].logprobs_size();
  ASSERT_LT(scored, whole);
  for (int i = 0; i < scored; ++i) {
    EXPECT_NEAR(columns[1].logprobs(i), columns[0].logprobs(whole - scored + i), 2e-4);
  }
}

TEST_F(ServerTest, CompareTellsDenseAndSparseSideBySide) {
  activate();
  v1::ScoreRequest request;
  request.add_inputs()->set_text(long_text(480));
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
  request.mutable_response()->set_tokens(true);
  const auto stream = score(server(), request);
  const v1::ScoreSummary total = total_of(stream);
  ASSERT_TRUE(total.has_comparison());
  double dense = 0, sparse = 0, kl = 0;
  int count = 0;
  for (const auto& message : stream.messages) {
    if (!message.has_tokens()) continue;
    for (int i = 0; i < message.tokens().logprobs_size(); ++i, ++count) {
      dense -= message.tokens().logprobs(i);
      sparse -= message.tokens().sparse_logprobs(i);
      kl += message.tokens().kl(i);
    }
  }
  ASSERT_EQ(count, total.tokens_scored());
  EXPECT_NEAR(total.nll_sum(), dense, 1e-6);
  EXPECT_NEAR(total.comparison().sparse_nll_sum(), sparse, 1e-6);
  EXPECT_NEAR(total.comparison().mean_kl(), kl / count, 1e-9);
  EXPECT_NE(dense, sparse);
  EXPECT_LE(total.comparison().same_top1_ratio(), 1);
  EXPECT_LT(total.attention().keys_attended_ratio(), 1);
  EXPECT_EQ(total.phase(), v1::SELECTION_PHASE_ROW);
  // A random model guesses: no degradation can be read off it.
  EXPECT_TRUE(total.suspect());
  EXPECT_FALSE(total.suspect_causes().empty());
  EXPECT_FALSE(total.comparison().has_degradation_percent());
}

TEST_F(ServerTest, ManyTextsAreScoredThroughASmallQueue) {
  server_.reset();
  auto options = server_options(dir_.path());
  options.engine.max_queue = 2;
  options.engine.max_sequences = 2;
  server_ = std::make_unique<TestServer>(options);
  v1::ScoreRequest request;
  for (int i = 0; i < 40; ++i) request.add_inputs()->set_text(long_text(20 + i));
  const auto stream = score(server(), request);
  total_of(stream);
  int summaries = 0;
  for (const auto& message : stream.messages) summaries += message.has_summary();
  EXPECT_EQ(summaries, 40);
}

TEST_F(ServerTest, AScoreWhoseClientGoesAwayFreesItsBlocks) {
  v1::ScoreRequest request;
  for (int i = 0; i < 60; ++i) request.add_inputs()->set_text(long_text(450));
  grpc::ClientContext context;
  auto reader = server().inference->Score(&context, request);
  v1::ScoreResponse message;
  ASSERT_TRUE(reader->Read(&message));
  context.TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(all_blocks_free(server()));
  EXPECT_LT(server()->engine().stats().scored_tokens, 60 * 150);
}

}  // namespace
}  // namespace kascade::testing
