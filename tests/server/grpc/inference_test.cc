// Tests generation, tokenization, model information and metrics over gRPC with a tiny random model.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/server_fixture.h"
#include "tools/version/version.h"

namespace kascade::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

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

// ---- Generate ----

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
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(3));
  v1::GenerateRequest request = greedy(long_text(450), 500);
  auto reader = server().inference->Generate(&context, request);
  for (v1::GenerateResponse message; reader->Read(&message);) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(all_blocks_free(server()));
}

// ---- Tokens and model ----

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

// ---- Metrics ----

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
  EXPECT_THAT(server()->metrics_text(), HasSubstr("kascade_build_info{commit=\"" + commit_hash() +
                                                  "\",version=\"" + version() + "\"} 1\n"));
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
