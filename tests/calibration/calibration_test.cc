// Calibration through the engine: what it refuses, how it ends early, and what it measures
// anew.
#include "engine/calibration/calibration.h"

#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/calibration/window_runs.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using ::testing::HasSubstr;

EngineOptions options_for(const std::filesystem::path& model) {
  EngineOptions options;
  options.model_directory = model;
  options.max_sequences = 8;
  options.max_batch_tokens = 520;
  return options;
}

class TinyCalibrationTest : public ::testing::Test {
 protected:
  TinyCalibrationTest() {
    write_tiny_model({.layers = 4, .context = 512, .peaked = true}, dir_.path());
    engine_ = make_engine(options_for(dir_.path()));
    options_.selection.min_keys = 16;
    options_.window_tokens = 512;
  }
  absl::StatusOr<CalibrationOutcome> run(const Texts& texts) {
    return calibrate(
        *engine_, options_, {.texts = texts}, [](const CalibrationProgress&) {}, stop_);
  }
  void expect_refused(const Texts& texts, const std::string& field) {
    const auto outcome = run(texts);
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kInvalidArgument) << outcome.status();
    EXPECT_THAT(std::string(outcome.status().message()), HasSubstr(field));
  }
  static Texts long_text() { return {random_tokens(11000, 256, 3)}; }

  TempDir dir_;
  std::unique_ptr<Engine> engine_;
  CalibrationOptions options_;
  std::atomic<bool> stop_ = false;
};

// Measuring and comparing look at nothing in the backend's memory but what they download. Short
// windows suffice, and the quality check compares in the same way as layer costs do.
TEST_F(TinyCalibrationTest, FarMemoryGivesTheSameSchedule) {
  EngineOptions options = options_for(dir_.path());
  std::optional<CalibrationOutcome> outcomes[2];
  options_.anchors = 2;
  options_.window_tokens = 128;
  options_.layer_cost = LayerCost::kImportance;
  for (const auto& [index, backend] : {std::pair{0, "reference"}, {1, "far_memory"}}) {
    options.backend = backend;
    engine_ = make_engine(options);
    const auto outcome = run(long_text());
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    outcomes[index] = *outcome;
  }
  ASSERT_TRUE(outcomes[0].has_value() && outcomes[1].has_value());
  EXPECT_EQ(outcomes[0]->similarity, outcomes[1]->similarity);
  EXPECT_GT(outcomes[0]->schedule.quality.mean_kl, 0);
  EXPECT_EQ(outcomes[0]->schedule.quality.mean_kl, outcomes[1]->schedule.quality.mean_kl);
}

TEST_F(TinyCalibrationTest, RefusesWhatCannotBeMeasured) {
  expect_refused({}, "texts");
  expect_refused({random_tokens(5000, 256, 1)}, "the quality check needs at least 1024");
  options_.selection.min_keys = 100000;
  expect_refused(long_text(), "min_keys: no query has more candidates than budget within 512");
  options_.selection.min_keys = 16;
  options_.selection.ratio = std::nan("");
  expect_refused(long_text(), "ratio");
  options_.selection.ratio = 0.1;
  options_.anchors = 5;
  expect_refused(long_text(), "anchors");
  options_.anchors = 0;
  options_.dense_layers = {4};
  expect_refused(long_text(), "dense_layers");
}

TEST_F(TinyCalibrationTest, RandomWeightsAreSuspectAndNeverPass) {
  options_.layer_cost = LayerCost::kImportance;
  const auto outcome = run(long_text());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->schedule.quality.suspect);
  EXPECT_FALSE(outcome->schedule.quality.passed);
  EXPECT_EQ(outcome->table.size(), 1u);  // no other candidate could pass
  EXPECT_EQ(engine_->stats().free_blocks, engine_->stats().total_blocks);
}

// Which stages the progress of a calibration has shown.
struct Stages {
  bool measured = false, measured_costs = false;
  bool operator==(const Stages&) const = default;
};
constexpr Stages kAll{true, true}, kNone{false, false};
constexpr Stages kSimilarityOnly{true, false}, kCostsOnly{false, true};

void expect_same(const CalibrationOutcome& a, const CalibrationOutcome& b) {
  EXPECT_EQ(a.similarity, b.similarity);
  ASSERT_EQ(a.schedule.layers.size(), b.schedule.layers.size());
  for (size_t i = 0; i < b.schedule.layers.size(); ++i) {
    EXPECT_EQ(a.schedule.layers[i].role, b.schedule.layers[i].role) << i;
    EXPECT_EQ(a.schedule.layers[i].anchor, b.schedule.layers[i].anchor) << i;
    EXPECT_EQ(a.schedule.layers[i].reuse_cost, b.schedule.layers[i].reuse_cost) << i;
  }
  EXPECT_EQ(a.schedule.quality.mean_kl, b.schedule.quality.mean_kl);
}

// A calibration measures only what the one before it has not measured, and its outcome is that of a
// calibration which measures everything.
class RepeatedCalibrationTest : public TinyCalibrationTest {
 protected:
  RepeatedCalibrationTest() {
    options_.window_tokens = 128;
    engine_ = make_engine(with_exact_batches());
  }
  // The results of a request do not depend on what else is in a batch. The CPU backend promises
  // this where it multiplies in bf16.
  EngineOptions with_exact_batches() const {
    EngineOptions options = options_for(dir_.path());
    if (engine_->info().instruction_set == "avx512bf16") {
      options.weights = "bf16";
    } else {
      options.backend = "reference";
    }
    return options;
  }

  Stages again(const Texts& texts) {
    Stages stages;
    const auto outcome = calibrate(
        *engine_, options_, {.texts = texts},
        [&](const CalibrationProgress& progress) {
          stages.measured |= progress.stage == CalibrationStage::kMeasuring;
          stages.measured_costs |= progress.stage == CalibrationStage::kMeasuringCosts;
        },
        stop_, &previous_);
    EXPECT_TRUE(outcome.ok()) << outcome.status();
    if (outcome.ok()) last_ = *outcome;
    return stages;
  }
  void expect_as_measured_anew(const Texts& texts) {
    const auto fresh = run(texts);
    ASSERT_TRUE(fresh.ok()) << fresh.status();
    expect_same(last_, *fresh);
  }

  Measurement previous_;
  CalibrationOutcome last_;
};

TEST_F(RepeatedCalibrationTest, MeasuresNothingTwice) {
  options_.anchors = 2;
  EXPECT_EQ(again(long_text()), kAll);
  options_.anchors = 3;
  EXPECT_EQ(again(long_text()), kNone);
  expect_as_measured_anew(long_text());
  const CalibrationOutcome with_3_anchors = last_;
  options_.layer_cost = LayerCost::kImportance;
  EXPECT_EQ(again(long_text()), kNone);
  expect_as_measured_anew(long_text());
  options_.layer_cost = LayerCost::kMeasured;
  options_.anchors = 0;  // needs to know what it costs that a layer selects
  EXPECT_EQ(again(long_text()), kCostsOnly);
  expect_as_measured_anew(long_text());
  EXPECT_EQ(again(long_text()), kNone);
  options_.anchors = 3;
  EXPECT_EQ(again(long_text()), kNone);
  expect_same(last_, with_3_anchors);
}

// Sums of floating-point numbers depend on their order, and windows overtake each other: the second
// window here is done long before the first. An engine that compares one window at a time keeps
// their order.
TEST_F(RepeatedCalibrationTest, DoesNotDependOnHowManyWindowsRunSideBySide) {
  const auto schedule = make_schedule(*engine_, {1}, {.min_keys = 16});
  const Texts windows = {random_tokens(500, 256, 5), random_tokens(30, 256, 6)};
  const auto kl_of = [&](Engine& engine) {
    const auto compared = WindowRuns(engine, stop_).compare(schedule, windows, [](int64_t) {});
    EXPECT_TRUE(compared.ok()) << compared.status();
    return compared.ok() ? compared->kl : std::vector<float>();
  };
  EngineOptions one_at_a_time = with_exact_batches();
  one_at_a_time.max_sequences = 2;
  const std::vector<float> together = kl_of(*engine_);
  EXPECT_EQ(together.size(), 499u + 29u);
  EXPECT_EQ(together, kl_of(*make_engine(one_at_a_time)));
}

// Keeps results in memory, and stops the calibration once so many have come.
class StoppingResults final : public RunResults {
 public:
  StoppingResults(std::atomic<bool>& stop, size_t stop_after)
      : stop_(stop), stop_after_(stop_after) {}
  const std::string* find(const std::string& key) const override {
    const auto found = results_.find(key);
    return found == results_.end() ? nullptr : &found->second;
  }
  void keep(const std::string& key, std::string result) override {
    EXPECT_TRUE(results_.emplace(key, std::move(result)).second) << key << " ran twice";
    if (--stop_after_ == 0) stop_ = true;
  }
  void stop_again_after(size_t results) { stop_after_ = results; }
  size_t size() const { return results_.size(); }

 private:
  std::atomic<bool>& stop_;
  size_t stop_after_;
  std::map<std::string, std::string> results_{};
};

// Wherever it is stopped, and however often, a calibration that continues runs no window twice, and
// makes the schedule of one that was left alone, to the last bit.
TEST_F(RepeatedCalibrationTest, AnInterruptedCalibrationContinuesToTheSameSchedule) {
  options_.max_degradation_percent = 1000;
  options_.dense_below = std::nullopt;  // a passing schedule would be timed, too
  const auto undisturbed = run(long_text());
  ASSERT_TRUE(undisturbed.ok()) << undisturbed.status();
  const auto comparable = [](Schedule schedule) {
    schedule.created_at.clear();
    schedule.calibration.duration_seconds = 0;
    seal(schedule);
    return to_json(schedule);
  };
  for (const size_t step : {1, 7}) {
    StoppingResults results(stop_, step);
    absl::StatusOr<CalibrationOutcome> outcome = absl::CancelledError();
    int interruptions = -1;
    for (; absl::IsCancelled(outcome.status()); ++interruptions) {
      stop_ = false;
      results.stop_again_after(step);
      outcome = calibrate(
          *engine_, options_, {.texts = long_text()}, [](const CalibrationProgress&) {}, stop_,
          nullptr, &results);
    }
    stop_ = false;
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_GT(interruptions, 3);
    EXPECT_EQ(comparable(outcome->schedule), comparable(undisturbed->schedule));
    EXPECT_EQ(outcome->similarity, undisturbed->similarity);
    EXPECT_EQ(outcome->note, undisturbed->note);
    EXPECT_EQ(outcome->table.size(), undisturbed->table.size());
    // Once more with all results there: nothing runs, and the schedule is the very same one.
    const int64_t rows = engine_->stats().rows;
    const auto again = calibrate(
        *engine_, options_, {.texts = long_text()}, [](const CalibrationProgress&) {}, stop_,
        nullptr, &results);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(engine_->stats().rows, rows);
    EXPECT_EQ(to_json(again->schedule), to_json(outcome->schedule));
  }
}

// Results of another version are of no use; the windows run again.
TEST_F(RepeatedCalibrationTest, ResultsThatAreNoneAreNotTaken) {
  class Nonsense final : public RunResults {
   public:
    const std::string* find(const std::string& key) const override {
      return key == "schedule" ? nullptr : &bytes_;
    }
    void keep(const std::string& /*key*/, std::string /*result*/) override { ++kept; }
    int kept = 0;

   private:
    const std::string bytes_ = "no result";
  } results;
  options_.anchors = 2;
  const auto outcome = calibrate(
      *engine_, options_, {.texts = long_text()}, [](const CalibrationProgress&) {}, stop_, nullptr,
      &results);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_GT(results.kept, 10);
  const auto fresh = run(long_text());
  ASSERT_TRUE(fresh.ok()) << fresh.status();
  expect_same(*outcome, *fresh);
}

TEST_F(RepeatedCalibrationTest, MeasuresWhatWasMeasuredOtherwise) {
  options_.anchors = 3;
  options_.layer_cost = LayerCost::kImportance;
  EXPECT_EQ(again(long_text()), kSimilarityOnly);
  options_.layer_cost = LayerCost::kMeasured;
  EXPECT_EQ(again(long_text()), kCostsOnly);
  options_.dense_layers = {1};  // the costs of the others change with it
  EXPECT_EQ(again(long_text()), kCostsOnly);
  expect_as_measured_anew(long_text());
  options_.layer_cost = LayerCost::kImportance;
  const Texts other_text = {random_tokens(11000, 256, 4)};
  EXPECT_EQ(again(other_text), kSimilarityOnly);
  options_.selection.ratio = 0.2;
  EXPECT_EQ(again(other_text), kSimilarityOnly);
  options_.planner = Planner::kGreedy;
  EXPECT_EQ(again(other_text), kSimilarityOnly);
  expect_as_measured_anew(other_text);
}

TEST_F(TinyCalibrationTest, SaysThatFewerAnchorsArePossibleThanWereAskedFor) {
  options_.anchors = 3;
  options_.auto_dense_layers = true;
  options_.min_recall = 1;  // no budget recalls everything, so every layer stays dense
  const auto outcome = run(long_text());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->schedule.count(Role::kDense), 4);
  EXPECT_THAT(outcome->note, HasSubstr("anchors: 3 were asked for, 1 is the most: 3 of 4 layers"));
  EXPECT_EQ(outcome->schedule.calibration.requested,
            (RequestedSchedule{.anchors = 3, .auto_dense_layers = true, .min_recall = 1}));
}

TEST_F(TinyCalibrationTest, HasNoNoteWhenAllWentAsAsked) {
  options_.anchors = 2;
  options_.dense_layers = {3};
  const auto outcome = run(long_text());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->note, "");
  EXPECT_EQ(outcome->schedule.calibration.requested,
            (RequestedSchedule{.anchors = 2, .dense_layers = {3}, .min_recall = 0.6}));
}

// On held-out parts so short that no key is dropped, no quality check could fail.
TEST_F(TinyCalibrationTest, HeldOutTextMustBeLongEnoughToDropKeys) {
  options_.selection.min_keys = 128;
  options_.join_texts = false;
  expect_refused(Texts(14, random_tokens(380, 256, 2)), "held-out");
  expect_refused(Texts(40, random_tokens(315, 256, 2)), "held-out");
  // The held-out parts of the short texts lie in no window, and one window of 512 tokens is too
  // little.
  Texts one_long(40, random_tokens(200, 256, 2));
  one_long.push_back(random_tokens(2600, 256, 4));
  expect_refused(one_long, "have 512 tokens in windows");
}

TEST_F(TinyCalibrationTest, NeedsNoPlaceInTheQueueAndFitsASmallCache) {
  options_.layer_cost = LayerCost::kImportance;  // the quality check compares, too
  EngineOptions small = options_for(dir_.path());
  small.max_queue = 1;
  small.int4_keys = false;
  const int64_t bytes = engine_->info().kv_bytes_per_token;
  // A block has 32 tokens. Of an odd number of blocks, each branch of a comparison has 10.
  for (const int64_t tokens : {640, 672}) {
    small.kv_memory_bytes = tokens * bytes;
    engine_ = make_engine(small);
    const auto outcome = run(long_text());
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_EQ(outcome->table.size(), 1u);
    EXPECT_EQ(outcome->schedule.calibration.window_tokens, 512);
    EXPECT_THAT(outcome->schedule.quality.protocol, HasSubstr("at most 320 tokens"));
  }
}

// The sums of a quality check are those of the tokens that Score returns for the same windows.
TEST_F(TinyCalibrationTest, SumsAreThoseOfTheScoredTokens) {
  const auto schedule = make_schedule(*engine_, {1}, options_.selection);
  const Texts windows = {random_tokens(400, 256, 5), random_tokens(33, 256, 6)};
  WindowComparison expected;
  for (const std::vector<Token>& window : windows) {
    PendingReply pending;
    Request request{.tokens = window, .task = Score{}};
    request.compared_with = ScheduledAttention{.schedule = schedule};
    ASSERT_TRUE(engine_->submit(std::move(request), pending.sink()).ok());
    const Reply reply = pending.wait();
    for (size_t i = 0; i < reply.tokens.size(); ++i) {
      const TokenComparison& token = reply.comparisons[i];
      expected.sums.add(reply.tokens[i].logprob, token.second.logprob, token.kl, token.same_top1);
    }
    expected.counts += reply.finish.counts.at(1);
  }
  const auto compared =
      WindowRuns(*engine_, stop_).compare(schedule, windows, [](int64_t /*tokens*/) {});
  ASSERT_TRUE(compared.ok()) << compared.status();
  const ComparisonSums& sums = compared->sums;
  EXPECT_EQ(sums.tokens, 399 + 32);
  EXPECT_GT(sums.difference_squares, 0);
  EXPECT_EQ(sums.same_top1, expected.sums.same_top1);
  EXPECT_EQ(compared->counts.attended, expected.counts.attended);
  EXPECT_EQ(compared->counts.kv_bytes_read, expected.counts.kv_bytes_read);
  // The tokens of windows that share a step may be added in another order.
  EXPECT_NEAR(sums.first_nll, expected.sums.first_nll, 1e-3);
  EXPECT_NEAR(sums.second_nll, expected.sums.second_nll, 1e-3);
  EXPECT_NEAR(sums.difference_squares, expected.sums.difference_squares, 1e-3);
  EXPECT_NEAR(sums.kl, expected.sums.kl, 1e-3);
}

TEST(IsBetterTest, APassCountsFirstThenWhatIsReadOrElseDroppedKeysThenTheDegradation) {
  const auto record = [](bool passed, double attended, double degradation, double read = 1e6) {
    QualityRecord quality;
    quality.kv_bytes_read_per_token = read;
    quality.passed = passed;
    quality.keys_attended_ratio = attended;
    quality.degradation_percent = degradation;
    return quality;
  };
  // From the best to the worst. A schedule that drops no key loses nothing, and is not worth
  // keeping.
  const QualityRecord ranked[] = {record(true, 0.3, 0.9, 9e5), record(true, 0.2, 0.8),
                                  record(false, 0.3, 1.5, 8e5), record(false, 0.2, 4),
                                  record(false, 1, 0)};
  for (size_t i = 0; i < std::size(ranked); ++i) {
    for (size_t j = 0; j < std::size(ranked); ++j) {
      EXPECT_EQ(is_better(ranked[i], ranked[j]), i < j) << i << " " << j;
    }
  }
}

TEST_F(TinyCalibrationTest, StopsWhenAsked) {
  stop_ = true;
  EXPECT_TRUE(absl::IsCancelled(run(long_text()).status()));
  EXPECT_EQ(engine_->stats().running + engine_->stats().waiting, 0);
}

TEST_F(TinyCalibrationTest, GreedyTilesDeliverAValidSchedule) {
  options_.planner = Planner::kGreedy;
  options_.selection = {.family = Family::kTile, .query_tile = 16, .top_k = 4};
  const auto outcome = run(long_text());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  const Schedule& schedule = outcome->schedule;
  EXPECT_EQ(schedule.calibration.planner, "greedy");
  EXPECT_EQ(schedule.layers[0].role, Role::kDense);
  EXPECT_EQ(schedule.layers[1].role, Role::kAnchor);
  EXPECT_TRUE(engine_->activate(std::make_shared<Schedule>(schedule)).ok());
}

TEST_F(TinyCalibrationTest, InteractiveRequestsGoFirstAndChangeNothing) {
  const auto alone = run(long_text());
  std::atomic<bool> done = false;
  std::thread traffic([&] {
    while (!done) {
      testing::run(*engine_,
                   {.tokens = random_tokens(60, 256, 9), .task = Generate{.max_new_tokens = 20}});
    }
  });
  const auto busy = run(long_text());
  done = true;
  traffic.join();
  ASSERT_TRUE(alone.ok() && busy.ok());
  for (size_t layer = 0; layer < alone->schedule.layers.size(); ++layer) {
    EXPECT_EQ(alone->schedule.layers[layer].role, busy->schedule.layers[layer].role);
    EXPECT_NEAR(alone->schedule.layers[layer].similarity, busy->schedule.layers[layer].similarity,
                1e-4);
  }
}

}  // namespace
}  // namespace kascade::testing
