// Tests which requests are compared with dense attention after they ended, what the metrics tell of
// them, and that nothing is compared while the server is busy.
#include "server/core/shadow.h"

#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/core/generation.h"
#include "server/core/scoring.h"
#include "tests/support/core_fixture.h"

namespace kascade::testing {
namespace {

using core::Shadow;
using metrics::ShadowKind;
using ::testing::ElementsAre;

class GenerationEndSink : public core::GenerationSink {
 public:
  explicit GenerationEndSink(core::ServerContext& context)
      : generation(context, *this, absl::Now()) {}
  void started(const core::GenerationStarted&) override {}
  void delta(core::GenerationDelta delta) override { tokens += delta.tokens.size(); }
  void finished(const core::GenerationFinished&) override {}
  void ended(const absl::Status& status) override {
    if (at_end) at_end();
    end.end(status);
  }

  core::Generation generation;
  AwaitedEnd end;
  std::function<void()> at_end{};
  size_t tokens = 0;
};

class ScoringEndSink : public core::ScoringSink {
 public:
  explicit ScoringEndSink(core::ServerContext& context) : scoring(context, *this, absl::Now()) {}
  void started(const core::ScoringStarted&) override {}
  void progress(const core::ScoringProgress&) override {}
  void columns(const core::ScoredColumns&) override {}
  void summary(const core::ScoringSummary& summary) override { tokens = summary.tokens_scored; }
  void ended(const absl::Status& status) override {
    if (at_end) at_end();
    end.end(status);
  }
  size_t unsent_bytes() const override { return 0; }

  core::Scoring scoring;
  AwaitedEnd end;
  std::function<void()> at_end{};
  int64_t tokens = 0;
};

// What the metrics tell.
struct Figures {
  int64_t kl_count = 0;
  double kl_sum = 0;
  int64_t tokens = 0;
  int64_t same_top1 = 0;
};

class ShadowTest : public CoreTest {
 protected:
  ShadowTest() : shadow_(*engine_, memory_, metrics_, /*rate=*/1, /*max_running=*/4) {
    schedule_ = add_schedule({1});
    context_->shadow = &shadow_;
  }
  ~ShadowTest() override { engine_->drain(absl::Seconds(60)); }

  void generate(bool sparse, int32_t tokens = 12) {
    auto sink = std::make_shared<GenerationEndSink>(*context_);
    sink->at_end = at_end_;
    core::GenerationRequest request{
        .prompt = core::TextPrompt{prompt_}, .max_new_tokens = tokens, .ignore_eos = true};
    request.sampling.temperature = 0;
    request.attention = attention(sparse);
    sink->generation.start(std::move(request), sink);
    EXPECT_TRUE(sink->end.wait().ok());
    EXPECT_EQ(sink->tokens, static_cast<size_t>(tokens));
  }
  int64_t score(bool sparse) {
    auto sink = std::make_shared<ScoringEndSink>(*context_);
    sink->at_end = at_end_;
    core::ScoringRequest request;
    request.inputs.emplace_back(core::TextToScore{.text = prompt_});
    request.attention = attention(sparse);
    sink->scoring.start(request, sink);
    EXPECT_TRUE(sink->end.wait().ok());
    return sink->tokens;
  }
  core::AttentionSource attention(bool sparse) const {
    if (sparse) return core::NamedSchedule{schedule_->schedule_id};
    return DenseAttention{};
  }
  template <typename Condition>
  static bool eventually(Condition condition) {
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    while (!condition()) {
      if (absl::Now() > deadline) return false;
      absl::SleepFor(absl::Milliseconds(2));
    }
    return true;
  }
  // {compared, skipped, failed} once so many comparisons were decided.
  std::vector<int> outcomes_of(int decided) {
    EXPECT_TRUE(eventually([&] {
      const auto now = outcomes();
      return std::accumulate(now.begin(), now.end(), 0) >= decided;
    }));
    return outcomes();
  }
  Figures figures(const std::string& kind) {
    const prometheus::Labels labels{{"kind", kind}};
    const auto histogram = metrics_.shadow.kl.Add(labels, prometheus::Histogram::BucketBoundaries{})
                               .Collect()
                               .histogram;
    return {.kl_count = static_cast<int64_t>(histogram.sample_count),
            .kl_sum = histogram.sample_sum,
            .tokens = static_cast<int64_t>(metrics_.shadow.tokens.Add(labels).Value()),
            .same_top1 = static_cast<int64_t>(metrics_.shadow.same_top1.Add(labels).Value())};
  }
  // {compared, skipped, failed}
  std::vector<int> outcomes() {
    std::vector<int> out;
    for (const char* outcome : {"compared", "skipped", "failed"}) {
      out.push_back(static_cast<int>(metrics_.shadow.runs.Add({{"outcome", outcome}}).Value()));
    }
    return out;
  }

  const std::string prompt_ = long_text(400);
  std::shared_ptr<const Schedule> schedule_;
  Shadow shadow_;
  std::function<void()> at_end_{};
};

// Whoever waits for a request's end may destroy what the request used.
TEST_F(ShadowTest, NothingIsReadAfterTheEndWasTold) {
  at_end_ = [this] { context_->shadow = nullptr; };
  score(/*sparse=*/true);
  EXPECT_THAT(outcomes_of(1), ElementsAre(1, 0, 0));
  context_->shadow = &shadow_;
  generate(/*sparse=*/true);
  EXPECT_THAT(outcomes_of(2), ElementsAre(2, 0, 0));
}

TEST_F(ShadowTest, ASparseGenerationIsComparedTokenByToken) {
  generate(/*sparse=*/true);
  EXPECT_THAT(outcomes_of(1), ElementsAre(1, 0, 0));
  const Figures compared = figures("generate");
  EXPECT_EQ(compared.tokens, 12);
  EXPECT_EQ(compared.kl_count, 1);
  EXPECT_GT(compared.kl_sum, 0);
  EXPECT_LE(compared.same_top1, 12);
  EXPECT_EQ(figures("score").kl_count, 0);
}

TEST_F(ShadowTest, ASparseScoringHasTheFiguresOfAComparison) {
  const int64_t tokens = score(/*sparse=*/true);
  EXPECT_THAT(outcomes_of(1), ElementsAre(1, 0, 0));
  EXPECT_EQ(figures("score").tokens, tokens);
  // The same by the request itself.
  core::ScoringRequest request;
  request.inputs.emplace_back(core::TextToScore{.text = prompt_});
  request.attention = DenseAttention{};
  request.compared_with = attention(true);
  double mean_kl = -1;
  struct Compared : ScoringEndSink {
    Compared(core::ServerContext& context, double& out) : ScoringEndSink(context), mean(out) {}
    void summary(const core::ScoringSummary& summary) override {
      if (const auto& comparison = summary.pass.comparison) mean = comparison->mean_kl;
    }
    double& mean;
  };
  auto sink = std::make_shared<Compared>(*context_, mean_kl);
  sink->scoring.start(request, sink);
  EXPECT_TRUE(sink->end.wait().ok());
  EXPECT_NEAR(figures("score").kl_sum, mean_kl, 1e-6);
  score(/*sparse=*/true);
  EXPECT_THAT(outcomes_of(2), ElementsAre(2, 0, 0));  // a comparison is not compared again
}

TEST_F(ShadowTest, DenseRequestsAndARateOfZeroAreNotCompared) {
  generate(/*sparse=*/false);
  score(/*sparse=*/false);
  shadow_.set_rate(0);
  generate(/*sparse=*/true);
  score(/*sparse=*/true);
  EXPECT_THAT(outcomes(), ElementsAre(0, 0, 0));
}

TEST_F(ShadowTest, TheRateIsAShareOfTheRequests) {
  shadow_.set_rate(0.25);
  const AttentionChoice sparse = ScheduledAttention{.schedule = schedule_};
  int drawn = 0;
  for (int i = 0; i < 10'000; ++i) drawn += shadow_.draw(sparse) ? 1 : 0;
  EXPECT_NEAR(drawn, 2500, 300);  // seven standard deviations
}

TEST_F(ShadowTest, OneComparisonRunsAtATime) {
  const Request request{.tokens = std::vector<Token>(64, 5),
                        .task = Score{},
                        .attention = ScheduledAttention{.schedule = schedule_}};
  // On the engine's thread, so that the first comparison cannot end before the second begins.
  ASSERT_TRUE(engine_
                  ->submit(request,
                           [&](const Event& event) {
                             if (!event.finish) return;
                             shadow_.compare(ShadowKind::kScore, request);
                             shadow_.compare(ShadowKind::kScore, request);
                           })
                  .ok());
  EXPECT_THAT(outcomes_of(2), ElementsAre(1, 1, 0));
}

TEST_F(ShadowTest, NothingIsComparedWithoutRoomOrAfterTheEnd) {
  Request request{.tokens = std::vector<Token>(64, 5),
                  .task = Score{},
                  .attention = ScheduledAttention{.schedule = schedule_}};
  generate(/*sparse=*/false);  // so that statistics are known
  Shadow busy(*engine_, memory_, metrics_, 1, /*max_running=*/-1);
  busy.compare(ShadowKind::kScore, request);
  EXPECT_THAT(outcomes(), ElementsAre(0, 1, 0));
  metrics::ServerMetrics other;
  core::MemoryBudget little(/*limit=*/100, other);
  Shadow poor(*engine_, little, metrics_, 1, 4);
  poor.compare(ShadowKind::kScore, request);
  EXPECT_THAT(outcomes(), ElementsAre(0, 2, 0));
  Request endless = request;
  endless.tokens.assign(4096, 5);  // longer than the context
  shadow_.compare(ShadowKind::kScore, endless);
  EXPECT_EQ(outcomes().at(0), 0);
  shadow_.stop();
  shadow_.compare(ShadowKind::kScore, request);
  EXPECT_EQ(outcomes().at(0), 0);
  EXPECT_TRUE(eventually([&] { return memory_.used() == 0; }));
}

}  // namespace
}  // namespace kascade::testing
