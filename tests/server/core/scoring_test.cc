// Tests scoring through the server's core without gRPC or HTTP: columns and sums, comparisons of
// any two attention methods, cancellation.
#include "server/core/scoring.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/core_fixture.h"

namespace kascade::testing {
namespace {

using core::AttentionSource;
using core::NamedSchedule;
using core::ScoringRequest;
using core::TextToScore;

// Figures of one summary, without what it points to.
struct Summary {
  int64_t tokens_scored = 0;
  core::RunFigures figures{};
  core::PassSummary pass{};
  std::optional<core::PassSummary> tile_pass{};
};

// Gathers what a scoring gives.
class Recorder : public core::ScoringSink {
 public:
  explicit Recorder(core::ServerContext& context) : scoring_(context, *this, steady_now()) {}

  void started(const core::ScoringStarted& started) override {
    windows = started.request.windows();
  }
  void progress(const core::ScoringProgress&) override {}
  void columns(const core::ScoredColumns& columns) override {
    for (const ScoredToken& token : columns.tokens) first[columns.input].push_back(token.logprob);
    for (const TokenComparison& comparison : columns.comparisons) {
      second[columns.input].push_back(comparison.second.logprob);
      kl[columns.input].push_back(comparison.kl);
    }
  }
  void summary(const core::ScoringSummary& summary) override {
    (summary.input ? inputs[*summary.input] : total) = {summary.tokens_scored, summary.figures,
                                                        summary.pass, summary.tile_pass};
  }
  void ended(const absl::Status& end_status) override { end_.end(end_status); }
  size_t unsent_bytes() const override { return 0; }

  static std::shared_ptr<Recorder> run(core::ServerContext& context,
                                       const ScoringRequest& request) {
    auto recorder = std::make_shared<Recorder>(context);
    recorder->scoring_.start(request, recorder);
    recorder->status = recorder->end_.wait();
    return recorder;
  }

  int32_t windows = 0;
  std::map<int32_t, std::vector<float>> first, second, kl;  // by input
  std::map<int32_t, Summary> inputs;
  Summary total;
  absl::Status status;

 private:
  core::Scoring scoring_;
  AwaitedEnd end_;
};

class ScoringTest : public CoreTest {
 protected:
  ScoringTest() : text_(long_text(480)) {}

  std::shared_ptr<Recorder> run(const ScoringRequest& request) {
    return Recorder::run(*context_, request);
  }
  ScoringRequest request_of(const AttentionSource& first) {
    ScoringRequest request;
    request.inputs = {TextToScore{text_}};
    request.attention = first;
    request.send_tokens = true;
    return request;
  }
  std::shared_ptr<Recorder> compare(const AttentionSource& first, const AttentionSource& second) {
    ScoringRequest request = request_of(first);
    request.compared_with = second;
    auto out = run(request);
    EXPECT_TRUE(out->status.ok()) << out->status;
    EXPECT_TRUE(out->total.pass.comparison.has_value());
    return out;
  }
  static BaselineAttention streaming() {
    BaselineAttention baseline = BaselineAttention::defaults(BaselineKind::kStreaming);
    baseline.min_keys = 16;
    return baseline;
  }

  std::string text_;
};

TEST_F(ScoringTest, SumsAreThoseOfTheColumns) {
  const std::string other = "in the other";
  ScoringRequest request = request_of(DenseAttention{});
  request.inputs.push_back(TextToScore{other});
  const auto out = run(request);
  ASSERT_TRUE(out->status.ok()) << out->status;
  ASSERT_EQ(out->inputs.size(), 2u);
  double sum = 0;
  for (const auto& [input, logprobs] : out->first) {
    double nll = 0;
    for (const float logprob : logprobs) nll -= logprob;
    EXPECT_NEAR(out->inputs[input].figures.nll_sum, nll, 1e-9);
    EXPECT_EQ(out->inputs[input].tokens_scored, static_cast<int64_t>(logprobs.size()));
    sum += nll;
  }
  EXPECT_NEAR(out->total.figures.nll_sum, sum, 1e-9);
  EXPECT_FALSE(out->total.pass.comparison.has_value());
}

TEST_F(ScoringTest, DenseBesideDenseDiffersNowhere) {
  const auto out = compare(DenseAttention{}, DenseAttention{});
  EXPECT_EQ(out->first, out->second);
  for (const float kl : out->kl[0]) EXPECT_EQ(kl, 0);
  const core::ComparisonFigures& figures = *out->total.pass.comparison;
  EXPECT_EQ(figures.mean_kl, 0);
  EXPECT_EQ(figures.max_kl, 0);
  EXPECT_EQ(figures.max_difference, 0);
  EXPECT_EQ(figures.same_top1_ratio, 1);
  EXPECT_EQ(figures.second_nll_sum, out->total.figures.nll_sum);
}

// Each half of a comparison gives what the same run gives alone, with its own counts.
void expect_halves(const Recorder& both, const Recorder& first, const Recorder& second) {
  EXPECT_EQ(both.first, first.first);
  EXPECT_EQ(both.second, second.first);
  EXPECT_EQ(both.total.pass.counts.attended, first.total.pass.counts.attended);
  EXPECT_EQ(both.total.pass.second_counts.attended, second.total.pass.counts.attended);
  EXPECT_EQ(both.total.pass.second_counts.scored, second.total.pass.counts.scored);
  EXPECT_GT(both.total.pass.comparison->mean_kl, 0);
}

TEST_F(ScoringTest, AnyTwoWaysToAttendCanBeCompared) {
  const auto one = add_schedule({1});
  const auto two = add_schedule({1, 3});
  ASSERT_TRUE(engine_->activate(two).ok());
  const AttentionSource first = NamedSchedule{.id = one->schedule_id};
  const AttentionSource active = NamedSchedule{};
  const auto alone = run(request_of(first));
  const auto alone_active = run(request_of(active));
  const auto alone_baseline = run(request_of(streaming()));
  expect_halves(*compare(first, active), *alone, *alone_active);
  expect_halves(*compare(active, streaming()), *alone_active, *alone_baseline);
  expect_halves(*compare(streaming(), DenseAttention{}), *alone_baseline,
                *run(request_of(DenseAttention{})));
}

TEST_F(ScoringTest, OneScheduleWithTwoRatiosCanBeCompared) {
  const auto schedule = add_schedule({1});
  const auto out = compare(NamedSchedule{.id = schedule->schedule_id, .ratio = 1},
                           NamedSchedule{.id = schedule->schedule_id, .ratio = 0.1});
  EXPECT_GT(out->total.pass.counts.attended, out->total.pass.second_counts.attended);
}

TEST_F(ScoringTest, BothGranularitiesHaveTheirOwnCounts) {
  const auto schedule = add_schedule({1});
  ScoringRequest request = request_of(NamedSchedule{.id = schedule->schedule_id});
  request.compared_with = streaming();
  request.tile_comparison = true;
  const auto both = run(request);
  ASSERT_TRUE(both->status.ok()) << both->status;
  ASSERT_TRUE(both->total.tile_pass.has_value());
  request.tile_comparison = false;
  request.granularity = SelectionGranularity::kPerTile;
  const auto tile = run(request);
  EXPECT_EQ(both->total.tile_pass->counts.attended, tile->total.pass.counts.attended);
  EXPECT_EQ(both->total.tile_pass->comparison->second_nll_sum,
            tile->total.pass.comparison->second_nll_sum);
}

TEST_F(ScoringTest, AnUnknownScheduleIsNotFound) {
  ScoringRequest request = request_of(DenseAttention{});
  request.compared_with = NamedSchedule{.id = "none"};
  EXPECT_TRUE(absl::IsNotFound(run(request)->status));
}

}  // namespace
}  // namespace kascade::testing
