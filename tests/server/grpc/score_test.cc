// Scoring over real gRPC on a tiny random model.
#include <algorithm>
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

TEST_F(ServerTest, BaselinesCompareWithDenseAndReportThemselves) {
  for (const auto kind :
       {v1::BASELINE_KIND_ORACLE, v1::BASELINE_KIND_STREAMING, v1::BASELINE_KIND_QUEST}) {
    v1::ScoreRequest request;
    request.add_inputs()->set_text(long_text(400));
    request.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
    auto& baseline = *request.mutable_attention()->mutable_baseline();
    baseline.set_kind(kind);
    baseline.set_min_keys(16);
    baseline.mutable_dense_layers();
    const v1::ScoreSummary total = total_of(score(server(), request));
    const auto& report = total.attention();
    EXPECT_EQ(report.baseline().kind(), kind);
    EXPECT_EQ(report.baseline().ratio(), 0.1);
    EXPECT_EQ(report.schedule_id(), "");
    EXPECT_EQ(report.reuse_layers_ratio(), 0);
    EXPECT_LT(report.keys_attended_ratio(), 0.7);
    EXPECT_EQ(report.keys_scored_ratio() > 0, kind != v1::BASELINE_KIND_STREAMING);
    EXPECT_LT(report.kv_bytes_read_per_token(), report.dense_kv_bytes_read_per_token());
    EXPECT_GT(total.comparison().mean_kl(), 0);
    baseline.set_ratio(1);
    const v1::ScoreSummary whole = total_of(score(server(), request));
    EXPECT_EQ(whole.attention().keys_attended_ratio(), 1);
    EXPECT_NEAR(whole.comparison().mean_kl(), 0, 1e-6);
  }
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

v1::ScoreRequest comparison_of(std::vector<std::string> texts) {
  v1::ScoreRequest request;
  for (std::string& text : texts) request.add_inputs()->set_text(std::move(text));
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
  return request;
}

// Sparse − dense log-probabilities of all inputs' columns, in order of size, as f32.
std::vector<float> sorted_differences(const Stream<v1::ScoreResponse>& stream) {
  std::vector<float> out;
  for (const auto& message : stream.messages) {
    for (int i = 0; i < message.tokens().logprobs_size(); ++i) {
      out.push_back(message.tokens().sparse_logprobs(i) - message.tokens().logprobs(i));
    }
  }
  std::ranges::sort(out);
  return out;
}

TEST_F(ServerTest, ADifferencesPercentilesAndErrorsAreThoseOfItsTokens) {
  activate();
  v1::ScoreRequest request = comparison_of({long_text(480), long_text(90)});
  request.mutable_response()->set_tokens(true);
  const auto stream = score(server(), request);
  const v1::Comparison comparison = total_of(stream).comparison();
  const std::vector<float> sorted = sorted_differences(stream);
  ASSERT_EQ(static_cast<int64_t>(sorted.size()), total_of(stream).tokens_scored());
  ASSERT_EQ(comparison.logprob_difference_percentiles_size(), 9);
  for (const auto& entry : comparison.logprob_difference_percentiles()) {
    const double place = entry.percent() / 100 * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<size_t>(std::floor(place));
    const auto above = static_cast<size_t>(std::ceil(place));
    const double expected = (1 - (place - std::floor(place))) * sorted[below] +
                            (place - std::floor(place)) * sorted[above];
    EXPECT_NEAR(entry.difference(), expected, 1e-12) << entry.percent();
  }
  double sum = 0, squares = 0;
  for (const float difference : sorted) sum += difference;
  const auto n = static_cast<double>(sorted.size());
  for (const float difference : sorted) squares += std::pow(difference - sum / n, 2);
  const double error = std::sqrt(squares / (n - 1) / n);
  EXPECT_NEAR(comparison.mean_logprob_difference(), sum / n, 1e-7);
  EXPECT_NEAR(comparison.mean_logprob_difference_standard_error(), error, 1e-6 * error);
  EXPECT_GT(comparison.max_kl(), comparison.mean_kl());
  EXPECT_GT(comparison.mean_kl_standard_error(), 0);
}

// The backend whose results depend on no other row, in f32, too.
class ReferenceTest : public ServerTest {
 protected:
  ReferenceTest() {
    server_.reset();
    auto options = server_options(dir_.path());
    options.engine.backend = "reference";
    server_ = std::make_unique<TestServer>(options);
    activate();
  }
};

TEST_F(ReferenceTest, BothHalvesOfAComparisonAreTheRunsAlone) {
  const std::vector<std::string> texts{long_text(700)};
  for (const auto protocol : {v1::SCORE_PROTOCOL_ROLLING, v1::SCORE_PROTOCOL_STRIDED}) {
    v1::ScoreRequest request = comparison_of(texts);
    request.set_protocol(protocol);
    request.set_window_tokens(200);
    request.set_tile_comparison(true);
    const v1::ScoreSummary both = total_of(score(server(), request));
    request.clear_tile_comparison();
    request.mutable_attention()->set_mode(v1::ATTENTION_MODE_DENSE);
    EXPECT_EQ(both.nll_sum(), total_of(score(server(), request)).nll_sum());
    request.mutable_attention()->set_mode(v1::ATTENTION_MODE_SPARSE);
    EXPECT_EQ(both.comparison().sparse_nll_sum(), total_of(score(server(), request)).nll_sum());
    request.set_phase(v1::SELECTION_PHASE_TILE);
    const v1::ScoreSummary tile = total_of(score(server(), request));
    EXPECT_EQ(both.tile_comparison().sparse_nll_sum(), tile.nll_sum());
    EXPECT_DOUBLE_EQ(both.tile_attention().keys_attended_ratio(),
                     tile.attention().keys_attended_ratio());
    EXPECT_GT(std::abs(both.comparison().sparse_nll_sum() - tile.nll_sum()), 1e-2);
  }
}

TEST_F(ReferenceTest, RatioOneDiffersNowhere) {
  v1::ScoreRequest request = comparison_of({long_text(300)});
  request.mutable_attention()->set_ratio(1);
  request.set_tile_comparison(true);
  const v1::ScoreSummary total = total_of(score(server(), request));
  for (const auto* comparison : {&total.comparison(), &total.tile_comparison()}) {
    EXPECT_EQ(comparison->mean_logprob_difference(), 0);
    EXPECT_EQ(comparison->max_logprob_difference(), 0);
    EXPECT_NEAR(comparison->max_kl(), 0, 1e-5);
    EXPECT_EQ(comparison->same_top1_ratio(), 1);
    for (const auto& entry : comparison->logprob_difference_percentiles()) {
      EXPECT_EQ(entry.difference(), 0);
    }
  }
}

v1::AttentionChoice dense_choice() {
  v1::AttentionChoice choice;
  choice.mutable_dense();
  return choice;
}

v1::AttentionChoice schedule_choice(const std::string& id) {
  v1::AttentionChoice choice;
  choice.mutable_schedule()->set_schedule_id(id);
  return choice;
}

v1::AttentionChoice streaming_choice() {
  v1::AttentionChoice choice;
  choice.mutable_baseline()->set_kind(v1::BASELINE_KIND_STREAMING);
  choice.mutable_baseline()->set_min_keys(16);
  return choice;
}

// Any two ways to attend, by the backend whose results depend on no other row.
class ComparisonTest : public ReferenceTest {
 protected:
  // A schedule that the server holds; not the active one.
  std::string add_schedule(const std::vector<int32_t>& anchors) {
    auto& engine = server()->engine();
    const auto active = engine.active_schedule();
    auto schedule = make_schedule(engine, anchors,
                                  {.family = Family::kKascade, .query_tile = 16, .min_keys = 8});
    v1::ActivateScheduleRequest request;
    request.set_schedule_json(to_json(*schedule));
    request.set_force(true);
    grpc::ClientContext context;
    v1::ActivateScheduleResponse response;
    EXPECT_TRUE(server().calibration->ActivateSchedule(&context, request, &response).ok());
    EXPECT_TRUE(engine.activate(active).ok());
    return response.schedule().schedule_id();
  }
  Stream<v1::ScoreResponse> compare(const v1::AttentionChoice& first,
                                    const v1::AttentionChoice& second) {
    v1::ScoreRequest request = comparison_of({long_text(400)});
    *request.mutable_attention()->mutable_first() = first;
    *request.mutable_attention()->mutable_second() = second;
    request.mutable_response()->set_tokens(true);
    return score(server(), request);
  }
};

TEST_F(ComparisonTest, DenseBesideDenseDiffersNowhere) {
  const auto stream = compare(dense_choice(), dense_choice());
  const v1::ScoreSummary total = total_of(stream);
  EXPECT_EQ(total.comparison().mean_kl(), 0);
  EXPECT_EQ(total.comparison().max_kl(), 0);
  EXPECT_EQ(total.comparison().max_logprob_difference(), 0);
  EXPECT_EQ(total.comparison().sparse_nll_sum(), total.nll_sum());
  for (const auto& message : stream.messages) {
    const auto& tokens = message.tokens();
    for (int i = 0; i < tokens.logprobs_size(); ++i) {
      EXPECT_EQ(tokens.logprobs(i), tokens.sparse_logprobs(i));
      EXPECT_EQ(tokens.kl(i), 0);
    }
  }
  EXPECT_TRUE(total.attention().choice().has_dense());
  EXPECT_FALSE(total.has_first_attention());
}

TEST_F(ComparisonTest, TwoSchedulesAreToldWithTheirOwnCounts) {
  const std::string id = add_schedule({1, 3});
  v1::AttentionChoice active;
  active.mutable_schedule()->set_ratio(0.3);
  const auto stream = compare(schedule_choice(id), active);
  const v1::ScoreSummary total = total_of(stream);
  const std::string active_id = server()->engine().active_schedule()->schedule_id;
  EXPECT_EQ(stream.messages.front().started().first().schedule().schedule_id(), id);
  EXPECT_EQ(stream.messages.front().started().second().schedule().schedule_id(), active_id);
  EXPECT_EQ(stream.messages.front().started().schedule_id(), active_id);
  EXPECT_EQ(total.first_attention().schedule_id(), id);
  EXPECT_EQ(total.attention().schedule_id(), active_id);
  EXPECT_EQ(total.attention().choice().schedule().ratio(), 0.3);
  EXPECT_EQ(total.attention().mode(), v1::ATTENTION_MODE_COMPARE);
  EXPECT_LT(total.first_attention().keys_attended_ratio(), 1);
  EXPECT_NE(total.first_attention().keys_attended_ratio(), total.attention().keys_attended_ratio());
  EXPECT_GT(total.comparison().mean_kl(), 0);
}

TEST_F(ComparisonTest, AScheduleBesideABaselineIsEachAlone) {
  v1::AttentionChoice active;
  active.mutable_schedule();
  const v1::ScoreSummary both = total_of(compare(active, streaming_choice()));
  v1::ScoreRequest request;
  request.add_inputs()->set_text(long_text(400));
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_SPARSE);
  const v1::ScoreSummary schedule = total_of(score(server(), request));
  *request.mutable_attention()->mutable_baseline() = streaming_choice().baseline();
  const v1::ScoreSummary baseline = total_of(score(server(), request));
  EXPECT_EQ(both.nll_sum(), schedule.nll_sum());
  EXPECT_EQ(both.comparison().sparse_nll_sum(), baseline.nll_sum());
  EXPECT_EQ(both.first_attention().keys_attended_ratio(),
            schedule.attention().keys_attended_ratio());
  EXPECT_EQ(both.attention().keys_attended_ratio(), baseline.attention().keys_attended_ratio());
  EXPECT_EQ(both.attention().baseline().kind(), v1::BASELINE_KIND_STREAMING);
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
