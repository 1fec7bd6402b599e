// What requests become before the engine sees them: windows of a text, options of a calibration,
// details of a status.
#include <cmath>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kascade/v1/error_details.pb.h"
#include "server/errors.h"
#include "server/score_plan.h"
#include "server/score_totals.h"
#include "server/score_windows.h"
#include "server/scored_text.h"
#include "server/translate.h"
#include "server/translate_calibration.h"

namespace kascade::server {
namespace {

using ::testing::ElementsAre;

// loglikelihood_rolling as lm-evaluation-harness describes it: inputs and targets of each window,
// context_len 1, made disjoint. `text` has no BOS.
struct Pair {
  std::vector<int> inputs;
  std::vector<int> targets;
};
std::vector<Pair> harness_windows(const std::vector<int>& text, int bos, int max_length) {
  std::vector<Pair> out;
  const int size = static_cast<int>(text.size());
  const int first = std::min(max_length, size);
  out.push_back({{bos}, {text.begin(), text.begin() + first}});
  out.back().inputs.insert(out.back().inputs.end(), text.begin(), text.begin() + first - 1);
  for (int done = first; done < size;) {
    const int count = std::min(size - done, max_length);
    const int end = done + count;
    out.push_back({{text.begin() + end - max_length - 1, text.begin() + end - 1},
                   {text.begin() + end - count, text.begin() + end}});
    done = end;
  }
  return out;
}

TEST(RollingWindows, AreThoseOfTheHarness) {
  for (const int size : {1, 2, 7, 8, 9, 15, 16, 17, 40, 41, 100}) {
    for (const int max_length : {1, 2, 8, 16, 99, 100, 101}) {
      SCOPED_TRACE(::testing::Message() << size << " tokens, max_length " << max_length);
      std::vector<int> text(size);
      std::iota(text.begin(), text.end(), 1);
      std::vector<int> sequence{0};
      sequence.insert(sequence.end(), text.begin(), text.end());
      const auto expected = harness_windows(text, 0, max_length);
      const auto windows = rolling_windows(size + 1, max_length + 1);
      ASSERT_EQ(windows.size(), expected.size());
      for (size_t i = 0; i < windows.size(); ++i) {
        const auto begin = sequence.begin() + windows[i].begin;
        const std::vector<int> tokens(begin, begin + windows[i].count);
        std::vector<int> inputs = expected[i].inputs;
        inputs.push_back(expected[i].targets.back());
        EXPECT_EQ(tokens, inputs);
        EXPECT_EQ(std::vector<int>(tokens.begin() + windows[i].first_scored, tokens.end()),
                  expected[i].targets);
      }
    }
  }
}

TEST(ChunkWindows, AreScoredInTheirSecondHalf) {
  EXPECT_THAT(chunk_windows(17, 8), ElementsAre(ScoreWindow{0, 8, 5}, ScoreWindow{8, 8, 5}));
  EXPECT_THAT(chunk_windows(6, 3), ElementsAre(ScoreWindow{0, 3, 2}, ScoreWindow{3, 3, 2}));
  EXPECT_EQ(chunk_windows(1024, 512).back(), (ScoreWindow{512, 512, 257}));  // 255 of 512
}

TEST(StridedWindows, ScoreEachTokenFromTheFirstOnOnce) {
  for (int64_t first = 1; first <= 9; ++first) {
    for (const int window : {2, 3, 4, 7, 20, 30}) {
      for (int stride = 1; stride < window; ++stride) {
        SCOPED_TRACE(::testing::Message() << first << ", " << window << ", " << stride);
        int64_t next = first;
        for (const ScoreWindow& cut : strided_windows(20, window, stride, first)) {
          EXPECT_EQ(cut.begin % stride, 0);
          EXPECT_EQ(cut.count, std::min<int64_t>(window, 20 - cut.begin));
          EXPECT_GE(cut.first_scored, 1);
          EXPECT_EQ(cut.begin + cut.first_scored, next);
          next = cut.begin + cut.count;
        }
        EXPECT_EQ(next, 20);
      }
    }
  }
}

TEST(TextCounter, CountsAsPythonSplits) {
  const auto words = [](std::string_view text, size_t piece) {
    TextCounter counter;
    for (size_t i = 0; i < text.size(); i += piece) counter.add(text.substr(i, piece));
    EXPECT_EQ(counter.bytes(), static_cast<int64_t>(text.size()));
    return counter.words();
  };
  for (const size_t piece : {1, 2, 3, 100}) {
    EXPECT_EQ(words("", piece), 0);
    EXPECT_EQ(words("one", piece), 1);
    EXPECT_EQ(words(" one\n\n two ", piece), 4);
    EXPECT_EQ(words("   ", piece), 2);
    EXPECT_EQ(words("a\xc2\xa0 \xe3\x80\x80"
                    "b\xe2\x80\xa9"
                    "c\x1c"
                    "d\xc2\x85",
                    piece),
              5);
    EXPECT_EQ(words("na\xc3\xafve \xf0\x9f\x98\x80", piece), 2);
    EXPECT_EQ(words("a\xff \xe3\x80", piece), 2);  // broken, and cut off
    EXPECT_EQ(words("a\xe3\x80 b", piece), 2);     // no space but the last
  }
}

TEST(WithoutTrailingSpace, IsPythonsRstrip) {
  EXPECT_EQ(without_trailing_space(""), "");
  EXPECT_EQ(without_trailing_space(" \n\t"), "");
  EXPECT_EQ(without_trailing_space(" a b"), " a b");
  EXPECT_EQ(without_trailing_space("a\xc2\xa0\x1f\xe3\x80\x80 \xe2\x80\xa9"), "a");
  EXPECT_EQ(without_trailing_space("na\xc3\xaf "), "na\xc3\xaf");
  EXPECT_EQ(without_trailing_space("a\xe2\x80\x8b"), "a\xe2\x80\x8b");  // of no width: no space
  EXPECT_EQ(without_trailing_space("\x80\x80"), "\x80\x80");
}

TEST(ScoreTotals, GiveMeansErrorsAndSuspicion) {
  ScoreTotals totals;
  totals.words = 3;
  totals.bytes = 10;
  for (const float logprob : {-1.0f, -2.0f, -3.0f}) {
    totals.add({.token = 1, .logprob = logprob, .is_top1 = logprob > -1.5f},
               {.sparse = {.logprob = logprob - 0.5f}, .kl = 0.1f, .same_top1 = true});
  }
  v1::ScoreSummary summary;
  summarize(totals, /*vocab=*/1000, summary);
  std::vector<float> differences{-0.25f, -0.75f, -0.5f};
  compare(totals, summary.suspect(), differences, *summary.mutable_comparison());
  EXPECT_DOUBLE_EQ(summary.nll_sum(), 6);
  EXPECT_DOUBLE_EQ(summary.mean_nll(), 2);
  EXPECT_DOUBLE_EQ(summary.perplexity(), std::exp(2.0));
  EXPECT_NEAR(summary.mean_nll_standard_error(), 1 / std::sqrt(3.0), 1e-12);
  EXPECT_NEAR(summary.bits_per_byte(), 0.6 / std::log(2.0), 1e-12);
  EXPECT_NEAR(summary.perplexity_standard_error(), std::exp(2.0) / std::sqrt(3.0), 1e-12);
  EXPECT_NEAR(summary.word_perplexity(), std::exp(2.0), 1e-12);
  EXPECT_NEAR(summary.byte_perplexity(), std::exp(0.6), 1e-12);
  EXPECT_NEAR(summary.top1_ratio(), 1.0 / 3, 1e-12);
  EXPECT_FALSE(summary.suspect());
  EXPECT_NEAR(summary.comparison().degradation_percent(), (std::exp(0.5) - 1) * 100, 1e-9);
  EXPECT_NEAR(summary.comparison().mean_kl(), 0.1, 1e-7);
  EXPECT_NEAR(summary.comparison().max_logprob_difference(), 0.5, 1e-7);
  EXPECT_NEAR(summary.comparison().mean_logprob_difference(), -0.5, 1e-12);
  EXPECT_NEAR(summary.comparison().degradation_percent_standard_error(), 0, 1e-5);
  EXPECT_NEAR(summary.comparison().sparse_mean_nll_standard_error(), 1 / std::sqrt(3.0), 1e-12);
  const auto& percentiles = summary.comparison().logprob_difference_percentiles();
  ASSERT_EQ(percentiles.size(), 9);
  EXPECT_DOUBLE_EQ(percentiles[4].percent(), 50);
  EXPECT_DOUBLE_EQ(percentiles[4].difference(), -0.5);
  EXPECT_DOUBLE_EQ(percentiles[2].difference(), -0.725);  // a tenth of the way up

  v1::ScoreSummary suspect;
  summarize(totals, /*vocab=*/20, suspect);  // ln 20 − 1 < 2
  compare(totals, suspect.suspect(), differences, *suspect.mutable_comparison());
  EXPECT_TRUE(suspect.suspect());
  EXPECT_GT(suspect.suspect_causes_size(), 0);
  EXPECT_FALSE(suspect.comparison().has_degradation_percent());
}

// Differences of 0.25 and 0.75 nats, and KLs of 0.1 and 0.3: standard errors of 0.25 and 0.1.
TEST(ScoreTotals, ErrorsOfAComparisonArePaired) {
  ScoreTotals totals;
  totals.add({.token = 1, .logprob = -1}, {.sparse = {.logprob = -1.25f}, .kl = 0.1f});
  totals.add({.token = 1, .logprob = -5}, {.sparse = {.logprob = -5.75f}, .kl = 0.3f});
  v1::ScoreSummary summary;
  summarize(totals, /*vocab=*/1000, summary);
  std::vector<float> differences{-0.25f, -0.75f};
  v1::Comparison& comparison = *summary.mutable_comparison();
  compare(totals, summary.suspect(), differences, comparison);
  EXPECT_NEAR(comparison.mean_logprob_difference(), -0.5, 1e-12);
  EXPECT_NEAR(comparison.mean_logprob_difference_standard_error(), 0.25, 1e-12);
  EXPECT_NEAR(comparison.degradation_percent_standard_error(), 25 * std::exp(0.5), 1e-9);
  EXPECT_NEAR(comparison.mean_kl_standard_error(), 0.1, 1e-7);
  EXPECT_NEAR(comparison.sparse_mean_nll_standard_error(), 2.25, 1e-12);
  EXPECT_NEAR(comparison.sparse_perplexity_standard_error(), 2.25 * std::exp(3.5), 1e-9);
}

TEST(CalibrationOptionsOfARequest, FollowFamilyMakerAndPreset) {
  const ModelConfig model{.layers = 12, .context = 4096};
  const auto plain = read_calibration_options({}, model);
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->selection, SelectionSettings{});
  EXPECT_EQ(plain->planner, Planner::kDynamicProgramming);
  EXPECT_EQ(plain->anchors, 0);

  v1::CalibrateRequest request;
  request.set_family(v1::SELECTION_FAMILY_TILE);
  const auto tile = read_calibration_options(request, model);
  ASSERT_TRUE(tile.ok());
  EXPECT_EQ(tile->planner, Planner::kGreedy);
  EXPECT_EQ(tile->selection.query_tile, 16);
  EXPECT_EQ(tile->selection.top_k, 12);
  EXPECT_EQ(tile->greedy.threshold, 0.65);

  request.Clear();
  request.set_preset(v1::CALIBRATION_PRESET_AGGRESSIVE);
  request.set_top_k(11);
  const auto preset = read_calibration_options(request, model);
  ASSERT_TRUE(preset.ok());
  EXPECT_EQ(preset->selection.family, Family::kTile);
  EXPECT_EQ(preset->selection.top_k, 11);
  EXPECT_EQ(preset->greedy.threshold, 0.55);
  EXPECT_EQ(preset->greedy.max_reuse_dist, 5);

  request.set_preset(v1::CALIBRATION_PRESET_CPU_8B);
  EXPECT_EQ(read_calibration_options(request, model)->window_tokens, 512);
}

TEST(CalibrationOptionsOfARequest, TakeEachExperiment) {
  const ModelConfig model{.layers = 12, .context = 4096};
  v1::CalibrateRequest request;
  request.set_pooling(v1::SCORE_POOLING_MAX);
  request.set_all_heads(true);
  request.set_published_head_map_slip(true);
  request.set_decode_own_tile(false);
  request.set_sink_keys(4);
  request.set_min_keys(64);
  request.set_ratio(0.2);
  const auto options = read_calibration_options(request, model);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->selection, (SelectionSettings{.ratio = 0.2,
                                                   .min_keys = 64,
                                                   .decode_own_tile = false,
                                                   .sink_keys = 4,
                                                   .pooling = ScorePooling::kMax,
                                                   .all_heads = true}));
  EXPECT_TRUE(options->published_head_map_slip);
  EXPECT_EQ(options->weight, LayerCost::kLoss);
  request.set_plan_weight(v1::PLAN_WEIGHT_IMPORTANCE);
  EXPECT_EQ(read_calibration_options(request, model)->weight, LayerCost::kImportance);
}

TEST(BaselineOfARequest, HasThePublishedDefaults) {
  v1::AttentionOptions in;
  auto& asked = *in.mutable_baseline();
  asked.set_kind(v1::BASELINE_KIND_QUEST);
  auto out = translate_attention(in, {.layers = 12}, nullptr, false);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->mode, Mode::kSparse);
  EXPECT_EQ(out->baseline, BaselineAttention::defaults(BaselineKind::kQuest));
  out = translate_attention(in, {.layers = 1}, nullptr, false);
  EXPECT_THAT(out->baseline.value_or(BaselineAttention{}).dense_layers, ElementsAre(0));

  asked.mutable_dense_layers();  // none
  asked.set_page_size(8);
  asked.set_ratio(0.25);
  asked.set_min_keys(0);
  out = translate_attention(in, {.layers = 12}, nullptr, false);
  EXPECT_EQ(out->baseline, (BaselineAttention{.kind = BaselineKind::kQuest,
                                              .ratio = 0.25,
                                              .min_keys = 0,
                                              .page_size = 8,
                                              .dense_layers = {}}));
  for (const int32_t layer : {7, 3, 7}) asked.mutable_dense_layers()->add_layers(layer);
  out = translate_attention(in, {.layers = 12}, nullptr, false);
  EXPECT_THAT(out->baseline.value_or(BaselineAttention{}).dense_layers, ElementsAre(3, 7));

  const v1::AttentionReport report = report_attention({}, *out, nullptr);
  EXPECT_EQ(report.baseline().kind(), v1::BASELINE_KIND_QUEST);
  EXPECT_EQ(report.baseline().min_keys(), 0);
  EXPECT_TRUE(report.baseline().has_min_keys());
  EXPECT_FALSE(report.baseline().has_sink_keys());
  EXPECT_THAT(report.baseline().dense_layers().layers(), ElementsAre(3, 7));

  asked.set_kind(v1::BASELINE_KIND_STREAMING);
  asked.clear_page_size();
  out = translate_attention(in, {.layers = 12}, nullptr, false);
  EXPECT_EQ(out->baseline.value_or(BaselineAttention{}).sink_keys, 4);
}

v1::ErrorInfo info_of(const grpc::Status& status) {
  v1::RpcStatus rpc;
  EXPECT_TRUE(rpc.ParseFromString(status.error_details()));
  v1::ErrorInfo info;
  for (const auto& detail : rpc.details()) {
    if (detail.type_url().ends_with("ErrorInfo")) info.ParseFromString(detail.value());
  }
  return info;
}

TEST(Errors, EveryCodeGetsAReason) {
  const std::pair<absl::Status, const char*> cases[] = {
      {absl::InvalidArgumentError("texts: too short"), "INVALID_FIELD"},
      {absl::ResourceExhaustedError("full"), "QUEUE_FULL"},
      {absl::UnavailableError("draining"), "DRAINING"},
      {absl::NotFoundError("x"), "NOT_FOUND"},
      {absl::CancelledError("x"), "CANCELLED"},
      {absl::DeadlineExceededError("x"), "DEADLINE"},
      {absl::UnimplementedError("x"), "UNIMPLEMENTED"},
      {absl::InternalError("logits are not finite at token 3"), "NON_FINITE"},
      {absl::InternalError("x"), "INTERNAL"},
      {absl::FailedPreconditionError("cache: x"), "CACHE_TOO_SMALL"},
      {absl::FailedPreconditionError("mode: no schedule is active"), "NO_SCHEDULE"},
  };
  for (const auto& [status, reason] : cases) {
    const grpc::Status told = to_grpc(status);
    EXPECT_EQ(static_cast<int>(told.error_code()), static_cast<int>(status.code()));
    EXPECT_EQ(info_of(told).reason(), reason) << told.error_message();
    EXPECT_EQ(info_of(told).domain(), "kascade");
  }
  EXPECT_TRUE(to_grpc(absl::OkStatus()).ok());
}

TEST(Errors, WhatIsNotUtf8IsReplaced) {
  const std::string bytes = "a\xff\xc3z\xed\xa0\x80\xe2\x82\xac";
  EXPECT_EQ(to_grpc(absl::InternalError(bytes)).error_message(), "a??z???€");
  EXPECT_EQ(info_of(to_grpc(absl::InternalError(bytes))).reason(), "INTERNAL");
  EXPECT_EQ(to_grpc(invalid_field("f", "\xe2\x82")).error_message(), "f: ?");
}

TEST(Errors, ALongMessageIsCutAtACharacter) {
  std::string text = "x";
  while (text.size() < 5000) text += "ä";
  const grpc::Status told = to_grpc(absl::InternalError(text));
  EXPECT_LT(told.error_message().size(), 520u);
  EXPECT_LT(told.error_details().size(), 1200u);
  EXPECT_EQ(info_of(told).reason(), "INTERNAL");  // is UTF-8, else nothing would parse
}

}  // namespace
}  // namespace kascade::server
