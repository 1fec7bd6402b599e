// Inference over real gRPC on a tiny random model.
#include "server/server.h"

#include <cmath>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/test_server.h"

namespace kascade::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr SelectionRule kKeys{
    .family = Family::kKascade, .query_tile = 16, .ratio = 0.1, .min_keys = 8};

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() {
    write_tiny_model({.layers = 4, .context = 512, .peaked = true}, dir_.path());
    server_ = std::make_unique<TestServer>(server_options(dir_.path()));
  }

  TestServer& server() { return *server_; }
  void activate(std::vector<int32_t> anchors = {1}) {
    auto& engine = server()->engine();
    ASSERT_TRUE(engine.activate(make_schedule(engine.model(), anchors, kKeys)).ok());
  }
  static v1::GenerateRequest greedy(const std::string& text, int32_t tokens) {
    v1::GenerateRequest request;
    request.set_text(text);
    request.mutable_sampling()->set_temperature(0);
    request.mutable_stopping()->set_max_new_tokens(tokens);
    request.mutable_stopping()->set_ignore_eos(true);
    request.mutable_response()->set_token_ids(true);
    return request;
  }
  static std::string long_text(size_t bytes) {
    std::string text;
    while (text.size() < bytes) text += "the thin lines in the other corner ";
    return text.substr(0, bytes);
  }

  TempDir dir_;
  std::unique_ptr<TestServer> server_;
};

// What a Generate gave, put together.
struct Generated {
  v1::GenerateStarted started;
  std::string text;
  v1::GenerateDelta columns;
  v1::GenerateFinished finished;
};

Generated assemble(const Stream<v1::GenerateResponse>& stream) {
  Generated out;
  EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
  if (stream.messages.size() < 2) {
    ADD_FAILURE() << "only " << stream.messages.size() << " messages";
    return out;
  }
  EXPECT_TRUE(stream.messages.front().has_started());
  EXPECT_TRUE(stream.messages.back().has_finished());
  out.started = stream.messages.front().started();
  out.finished = stream.messages.back().finished();
  int32_t count = 0;
  for (size_t i = 1; i + 1 < stream.messages.size(); ++i) {
    EXPECT_TRUE(stream.messages[i].has_delta());
    out.text += stream.messages[i].delta().text();
    count += stream.messages[i].delta().token_count();
    out.columns.MergeFrom(stream.messages[i].delta());
  }
  EXPECT_EQ(count, out.finished.generated_tokens());
  return out;
}

std::string text_of(TestServer& server, const v1::GenerateDelta& columns) {
  v1::DetokenizeRequest request;
  *request.mutable_token_ids() = columns.token_ids();
  v1::DetokenizeResponse response;
  grpc::ClientContext context;
  EXPECT_TRUE(server.inference->Detokenize(&context, request, &response).ok());
  return response.text();
}

// ---- Generate
// ------------------------------------------------------------------------------------

TEST_F(ServerTest, GenerateStreamsTheTextOfItsTokens) {
  const Generated out = assemble(generate(server(), greedy("in the", 24)));
  EXPECT_EQ(out.columns.token_ids_size(), 24);
  EXPECT_EQ(out.text, text_of(server(), out.columns));
  EXPECT_EQ(out.finished.reason(), v1::FINISH_REASON_MAX_NEW_TOKENS);
  EXPECT_EQ(out.finished.generated_tokens(), 24);
  EXPECT_EQ(out.finished.prompt_tokens(), out.started.prompt_tokens());
  EXPECT_EQ(out.finished.attention().mode(), v1::ATTENTION_MODE_DENSE);
  EXPECT_DOUBLE_EQ(out.finished.attention().keys_attended_ratio(), 1);
  EXPECT_GT(out.finished.attention().kv_bytes_read_per_token(), 0);
  const auto& timings = out.finished.timings();
  EXPECT_GT(timings.time_to_first_token_seconds(), 0);
  EXPECT_GE(timings.total_seconds(),
            timings.time_to_first_token_seconds() + timings.decode_seconds());
}

TEST_F(ServerTest, GenerateTwiceWithTheToldSeedGivesTheSame) {
  v1::GenerateRequest request = greedy("on the", 16);
  request.mutable_sampling()->set_temperature(1.5);
  const Generated first = assemble(generate(server(), request));
  request.mutable_sampling()->set_seed(first.started.seed());
  const Generated second = assemble(generate(server(), request));
  EXPECT_EQ(second.started.seed(), first.started.seed());
  EXPECT_THAT(second.columns.token_ids(), ::testing::ElementsAreArray(first.columns.token_ids()));
}

TEST_F(ServerTest, GenerateFillsTheColumnsThatAreAskedFor) {
  v1::GenerateRequest request = greedy("in", 5);
  request.mutable_response()->clear_token_ids();
  request.mutable_response()->set_top_logprobs(3);
  request.mutable_response()->set_prompt_token_ids(true);
  const Generated out = assemble(generate(server(), request));
  EXPECT_THAT(out.started.prompt_token_ids(), ElementsAre(kTinyBos, 261));
  ASSERT_EQ(out.columns.token_ids_size(), 5);
  ASSERT_EQ(out.columns.logprobs_size(), 5);
  ASSERT_EQ(out.columns.top_size(), 5);
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(out.columns.top(i).token_ids_size(), 3);
    EXPECT_EQ(out.columns.top(i).token_ids(0), out.columns.token_ids(i));  // greedy
    EXPECT_FLOAT_EQ(out.columns.top(i).logprobs(0), out.columns.logprobs(i));
    EXPECT_LE(out.columns.logprobs(i), 0);
  }
  request.mutable_response()->Clear();
  EXPECT_EQ(assemble(generate(server(), request)).columns.token_ids_size(), 0);
}

TEST_F(ServerTest, AStopStringEndsTheTextAndTheWork) {
  v1::GenerateRequest request = greedy("in the", 40);
  for (int byte = 128; byte < 256; ++byte) {  // ASCII only, so that any piece is a string
    auto& bias = *request.mutable_sampling()->add_logit_bias();
    bias.set_token_id(byte);
    bias.set_bias(-100);
  }
  const Generated all = assemble(generate(server(), request));
  ASSERT_GT(all.text.size(), 12u);
  const std::string stop = all.text.substr(6, 3);
  const size_t at = all.text.find(stop);
  request.mutable_stopping()->add_stop_strings(stop);
  const Generated cut = assemble(generate(server(), request));
  EXPECT_EQ(cut.finished.reason(), v1::FINISH_REASON_STOP_STRING);
  EXPECT_EQ(cut.finished.stop_string(), stop);
  EXPECT_EQ(cut.text, all.text.substr(0, at));
  EXPECT_LT(cut.finished.generated_tokens(), 40);
  request.mutable_stopping()->set_include_stop_string(true);
  EXPECT_EQ(assemble(generate(server(), request)).text, all.text.substr(0, at + stop.size()));
  EXPECT_TRUE(all_blocks_free(server()));
}

TEST_F(ServerTest, AStopTokenEndsTheGenerationAndIsToldWithoutItsText) {
  const Generated all = assemble(generate(server(), greedy("in the", 8)));
  const int32_t stop = all.columns.token_ids(3);
  v1::GenerateRequest request = greedy("in the", 8);
  request.mutable_stopping()->add_stop_token_ids(stop);
  const Generated cut = assemble(generate(server(), request));
  EXPECT_EQ(cut.finished.reason(), v1::FINISH_REASON_STOP_TOKEN);
  EXPECT_EQ(cut.finished.stop_token_id(), stop);
  v1::GenerateDelta before = cut.columns;
  before.mutable_token_ids()->RemoveLast();
  EXPECT_EQ(cut.text, text_of(server(), before));
}

TEST_F(ServerTest, TheContextEndsAGeneration) {
  v1::GenerateRequest request = greedy("", 512);
  for (int i = 0; i < 500; ++i) request.mutable_token_ids()->add_ids(i % 200);
  const Generated out = assemble(generate(server(), request));
  EXPECT_EQ(out.finished.reason(), v1::FINISH_REASON_CONTEXT_LENGTH);
  EXPECT_EQ(out.finished.prompt_tokens() + out.finished.generated_tokens(), 512);
}

TEST_F(ServerTest, SparseGenerationUsesTheScheduleAndReportsWhatItRead) {
  activate();
  v1::GenerateRequest request = greedy(long_text(400), 16);
  const Generated sparse = assemble(generate(server(), request));
  EXPECT_EQ(sparse.started.mode(), v1::ATTENTION_MODE_SPARSE);
  EXPECT_EQ(sparse.started.schedule_id(), server()->engine().active_schedule()->schedule_id);
  const auto& report = sparse.finished.attention();
  EXPECT_EQ(report.schedule_id(), sparse.started.schedule_id());
  EXPECT_EQ(report.mode(), v1::ATTENTION_MODE_SPARSE);
  EXPECT_GT(report.keys_attended_ratio(), 0);
  EXPECT_LT(report.keys_attended_ratio(), 1);
  EXPECT_GT(report.keys_scored_ratio(), 0);
  EXPECT_LT(report.kv_bytes_read_per_token(), report.dense_kv_bytes_read_per_token());
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_DENSE);
  const Generated dense = assemble(generate(server(), request));
  EXPECT_EQ(dense.finished.attention().schedule_id(), "");
}

TEST_F(ServerTest, AClientThatGoesAwayFreesItsBlocks) {
  v1::GenerateRequest request = greedy(long_text(300), 500);
  for (int i = 0; i < 6; ++i) {
    grpc::ClientContext context;
    auto reader = server().inference->Generate(&context, request);
    v1::GenerateResponse message;
    // Gone at different moments: before the first token, and with several.
    for (int read = 0; read < i; ++read) ASSERT_TRUE(reader->Read(&message));
    context.TryCancel();
    while (reader->Read(&message)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(all_blocks_free(server()));
}

TEST_F(ServerTest, ADeadlineEndsAGenerationAndFreesItsBlocks) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(30));
  v1::GenerateRequest request = greedy(long_text(450), 500);
  auto reader = server().inference->Generate(&context, request);
  for (v1::GenerateResponse message; reader->Read(&message);) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(all_blocks_free(server()));
}

// ---- Score
// ---------------------------------------------------------------------------------------

v1::ScoreSummary total_of(const Stream<v1::ScoreResponse>& stream) {
  EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_FALSE(stream.messages.empty());
  if (stream.messages.empty() || !stream.messages.back().has_total()) {
    ADD_FAILURE() << "no total";
    return {};
  }
  return stream.messages.back().total();
}

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

// ---- Tokens and model
// ----------------------------------------------------------------------------

TEST_F(ServerTest, TokenizeAndDetokenizeAreInverse) {
  const std::string text = "the thing in the other corner, äöü <|eos|>";
  v1::TokenizeRequest request;
  request.add_texts(text);
  request.set_details(true);
  v1::TokenizeResponse response;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(server().inference->Tokenize(&context, request, &response).ok());
  }
  const auto& tokens = response.results(0);
  EXPECT_EQ(tokens.token_ids(0), kTinyBos);
  ASSERT_EQ(tokens.byte_offsets_size(), tokens.token_ids_size());
  ASSERT_EQ(tokens.token_texts_size(), tokens.token_ids_size());
  EXPECT_EQ(tokens.byte_offsets(0), 0);
  EXPECT_EQ(tokens.byte_offsets(1), 0);
  EXPECT_EQ(tokens.token_texts(1), "the");
  EXPECT_EQ(tokens.byte_offsets(2), 3);
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse decoded;
  grpc::ClientContext context;
  ASSERT_TRUE(server().inference->Detokenize(&context, back, &decoded).ok());
  EXPECT_EQ(decoded.text(), text);
}

TEST_F(ServerTest, SpecialTextBecomesATokenOnlyWhenAsked) {
  v1::TokenizeRequest request;
  request.add_texts("<|eos|>");
  request.set_add_bos(false);
  v1::TokenizeResponse response;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(server().inference->Tokenize(&context, request, &response).ok());
  }
  EXPECT_EQ(response.results(0).token_ids_size(), 7);
  request.set_parse_special_tokens(true);
  grpc::ClientContext context;
  ASSERT_TRUE(server().inference->Tokenize(&context, request, &response).ok());
  EXPECT_THAT(response.results(0).token_ids(), ElementsAre(kTinyEos));
}

TEST_F(ServerTest, ModelInfoTellsShapeLimitsAndDigests) {
  grpc::ClientContext context;
  v1::GetModelInfoResponse info;
  ASSERT_TRUE(server().inference->GetModelInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.model().layers(), 4);
  EXPECT_EQ(info.model().context_length(), 512);
  EXPECT_EQ(info.model().bos_token_id(), kTinyBos);
  EXPECT_THAT(info.model().eos_token_ids(), ElementsAre(kTinyEos));
  EXPECT_TRUE(info.model().adds_bos());
  EXPECT_EQ(info.model().weights_digest().size(), 64u);
  EXPECT_GT(info.model().parameters(), 0);
  EXPECT_EQ(info.limits().max_sequences(), 8);
  EXPECT_GT(info.limits().cache_tokens(), 0);
  EXPECT_GT(info.runtime().kv_bytes_per_token(), 0);
  EXPECT_FALSE(info.server_version().empty());
  EXPECT_EQ(info.active_schedule_id(), "");
}

// ---- Metrics
// -------------------------------------------------------------------------------------

double metric(TestServer& server, const std::string& series) {
  const std::string text = server->metrics_text();
  const size_t at = text.find("\n" + series + " ");
  return at == std::string::npos ? -1 : std::stod(text.substr(at + series.size() + 2));
}

TEST_F(ServerTest, MetricsGrowWithTraffic) {
  const std::string ok = "kascade_rpc_requests_total{code=\"OK\",rpc=\"Generate\"}";
  EXPECT_EQ(metric(server(), ok), -1);
  assemble(generate(server(), greedy("in the", 7)));
  EXPECT_TRUE(eventually([&] { return metric(server(), ok) == 1; }));
  assemble(generate(server(), greedy("in the", 7)));
  EXPECT_TRUE(eventually([&] { return metric(server(), ok) == 2; }));
  EXPECT_EQ(metric(server(), "kascade_generated_tokens_total"), 14);
  EXPECT_EQ(metric(server(), "kascade_time_to_first_token_seconds_count"), 2);
  EXPECT_EQ(metric(server(), "kascade_inter_token_latency_seconds_count"), 12);
  EXPECT_EQ(metric(server(), "kascade_request_duration_seconds_count{rpc=\"Generate\"}"), 2);
  EXPECT_EQ(metric(server(), "kascade_request_queue_seconds_count"), 2);
  EXPECT_GT(metric(server(), "kascade_attention_keys_attended_total{layer_role=\"dense\"}"), 0);
  EXPECT_EQ(metric(server(), "kascade_attention_keys_attended_total{layer_role=\"reuse\"}"), 0);
  EXPECT_EQ(metric(server(), "kascade_requests_running"), 0);
  EXPECT_EQ(metric(server(), "kascade_kv_blocks_used_ratio"), 0);
  EXPECT_THAT(server()->metrics_text(), HasSubstr("kascade_build_info{version="));
  v1::ScoreRequest request;
  request.add_inputs()->set_text(long_text(400));
  activate();
  total_of(score(server(), request));
  EXPECT_GT(metric(server(), "kascade_scored_tokens_total"), 0);
  EXPECT_GT(metric(server(), "kascade_attention_keys_attended_total{layer_role=\"reuse\"}"), 0);
  EXPECT_GT(metric(server(), "kascade_attention_keys_causal_total"), 0);
  EXPECT_THAT(server()->metrics_text(), HasSubstr("kascade_schedule_info{"));
}

}  // namespace
}  // namespace kascade::testing
