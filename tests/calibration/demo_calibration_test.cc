// Which schedules calibration finds for the bundled model.
#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/calibration/calibration.h"
#include "engine/calibration/crossover.h"
#include "engine/calibration/window_runs.h"
#include "engine/calibration/windows.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/shared_data.h"

namespace kascade::testing {
namespace {

// Calibrations of the bundled model on the beginning of its calibration text. All tests share one
// engine and, where they use the selection and windows of `options_`, one measurement.
class DemoCalibrationTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    EngineOptions options;
    options.model_directory = demo_model();
    options.max_sequences = 8;
    options.max_batch_tokens = 520;
    engine_ = make_engine(options);
    const std::string text = read_file(demo_model() / "calibration.txt").substr(0, 37500);
    texts_ = {engine_->tokenizer().encode(text, {.add_special_tokens = false}).value()};
    measured_ = Measurement();
  }
  static void TearDownTestSuite() { engine_ = nullptr; }

  DemoCalibrationTest() {
    options_.selection.min_keys = 16;
    options_.window_tokens = 512;
  }
  absl::StatusOr<CalibrationOutcome> run() {
    return calibrate(
        *engine_, options_, {.texts = texts_},
        [this](const CalibrationProgress& progress) {
          EXPECT_LE(progress.done_tokens, progress.total_tokens);
          if (progress.stage == stage_) {
            EXPECT_GE(progress.done_tokens, done_tokens_);
          }
          stage_ = progress.stage;
          measured_times_ |= progress.stage == CalibrationStage::kMeasuringTimes;
          done_tokens_ = progress.done_tokens;
        },
        stop_, &measured_);
  }

  static std::unique_ptr<Engine> engine_;
  static Texts texts_;
  static Measurement measured_;
  CalibrationOptions options_;
  std::atomic<bool> stop_ = false;
  CalibrationStage stage_ = CalibrationStage::kMeasuring;  // the last one reported
  int64_t done_tokens_ = 0;
  bool measured_times_ = false;  // whether any calibration of the test did
};
std::unique_ptr<Engine> DemoCalibrationTest::engine_;
Texts DemoCalibrationTest::texts_;
Measurement DemoCalibrationTest::measured_;

TEST_F(DemoCalibrationTest, FindsASparseScheduleThatPasses) {
  options_.max_degradation_percent = 2;
  const auto outcome = run();
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->schedule.quality.passed);
  EXPECT_FALSE(outcome->schedule.quality.suspect);
  for (const QualityCheckResult& candidate : outcome->table) {
    const QualityRecord& quality = candidate.quality;
    const double error = quality.degradation_error_percent.value_or(0);
    EXPECT_GT(error, 0);
    EXPECT_LT(error, quality.degradation_percent + 1);
    EXPECT_EQ(quality.kinds.at(0).passed, quality.degradation_percent + error <= 2);
    // Pass keys are asked for where the perplexity passed.
    EXPECT_EQ(quality.retrieval.empty(), !quality.kinds[0].passed);
  }
  EXPECT_TRUE(outcome->schedule.calibration.uses_measured_costs);
  EXPECT_GE(outcome->schedule.count(Role::kReuse), 1);
  EXPECT_LT(outcome->schedule.quality.keys_attended_ratio, 0.9);
  EXPECT_EQ(stage_, CalibrationStage::kDone);
}

// The figures of the quality check are those of its windows, computed anew.
TEST_F(DemoCalibrationTest, TheQualityCheckReportsTheErrorOfItsTokens) {
  options_.layer_cost = LayerCost::kImportance;
  options_.anchors = 6;
  const auto outcome = run();
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  const auto kinds =
      held_out_windows(split({.texts = texts_}, options_.window_tokens, /*joins_short=*/true),
                       {options_.selection, options_.window_tokens, engine_->model().context,
                        engine_->tokenizer().prefix_tokens()},
                       {});
  ASSERT_TRUE(kinds.ok()) << kinds.status();
  ASSERT_EQ(kinds->size(), 1u);
  const auto compared = WindowRuns(*engine_, stop_)
                            .compare(std::make_shared<Schedule>(outcome->schedule),
                                     kinds->front().windows, [](int64_t /*tokens*/) {});
  ASSERT_TRUE(compared.ok()) << compared.status();
  const ComparisonSums& sums = compared->sums;
  const auto n = static_cast<double>(sums.tokens);
  const double rise = (sums.second_nll - sums.first_nll) / n;
  const double variance = (sums.difference_squares - n * rise * rise) / (n - 1);
  const QualityRecord& quality = outcome->schedule.quality;
  EXPECT_EQ(quality.tokens, sums.tokens);
  EXPECT_EQ(quality.checked_tokens, 512);
  EXPECT_EQ(quality.kinds.at(0).tokens, sums.tokens);
  EXPECT_EQ(quality.kinds[0].degradation_percent, quality.degradation_percent);
  EXPECT_EQ(quality.kinds[0].mean_kl, quality.mean_kl);
  EXPECT_GT(quality.kinds[0].kl_99th_percentile, 2 * quality.mean_kl);
  EXPECT_NEAR(quality.degradation_percent, 100 * (std::exp(rise) - 1), 1e-4);
  EXPECT_NEAR(quality.degradation_error_percent.value_or(0),
              100 * std::exp(rise) * std::sqrt(variance / n), 1e-4);
  EXPECT_GT(quality.degradation_error_percent.value_or(0), 0.01);
}

// An anchor layer of the tile family attends to all keys. A schedule in which every layer selects
// therefore saves nothing, and the search goes on to fewer selecting layers.
TEST_F(DemoCalibrationTest, TilesAreSearchedToo) {
  options_.selection = {.family = Family::kTile, .query_tile = 16, .top_k = 6};
  options_.layer_cost = LayerCost::kImportance;  // layer costs of this selection would take long
  const auto outcome =
      calibrate(*engine_, options_, {.texts = texts_}, [](const CalibrationProgress&) {}, stop_);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  const Schedule& schedule = outcome->schedule;
  EXPECT_TRUE(schedule.quality.passed) << schedule.quality.degradation_percent;
  EXPECT_LT(schedule.quality.keys_attended_ratio, 0.95);
  EXPECT_GE(schedule.count(Role::kReuse), 1);
  EXPECT_EQ(schedule.count(Role::kDense), 1);
  // Of those that passed, the one with fewest selecting layers.
  for (const QualityCheckResult& candidate : outcome->table) {
    EXPECT_EQ(candidate.dense_layers, 0);
    if (!candidate.quality.passed) continue;
    EXPECT_GE(candidate.anchors, schedule.count(Role::kAnchor) + 1);
  }
}

// Where no schedule passes in which all layers may select, more layers stay dense, and a note names
// them.
TEST_F(DemoCalibrationTest, KeepsMoreLayersDenseWhereOtherwiseNothingPasses) {
  options_.anchors = engine_->model().layers;
  options_.max_degradation_percent = 0;
  const auto failed = run();
  ASSERT_TRUE(failed.ok()) << failed.status();
  ASSERT_FALSE(failed->schedule.quality.passed);
  EXPECT_EQ(failed->table.size(), 1u);  // the number of anchors that was asked for, and no other
  const double all_select = failed->schedule.quality.degradation_percent;
  options_.anchors = 0;
  options_.max_degradation_percent = all_select / 2;
  const auto outcome = run();
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  const Schedule& schedule = outcome->schedule;
  EXPECT_TRUE(schedule.quality.passed);
  EXPECT_LT(schedule.quality.degradation_percent, all_select / 2);
  EXPECT_EQ(outcome->table.front().anchors, engine_->model().layers);
  EXPECT_EQ(outcome->table.front().dense_layers, 0);
  EXPECT_GE(schedule.count(Role::kDense), 2);
  EXPECT_LT(schedule.quality.keys_attended_ratio, 0.8);
  for (size_t layer = 1; layer < schedule.layers.size(); ++layer) {
    const bool named =
        absl::StrContains(absl::StrCat(outcome->note, ","), absl::StrCat(" ", layer, ","));
    EXPECT_EQ(named, schedule.layers[layer].role == Role::kDense) << outcome->note;
  }
  EXPECT_EQ(schedule.calibration.requested, (RequestedSchedule{.min_recall = 0.6}));
  EXPECT_TRUE(engine_->activate(std::make_shared<Schedule>(schedule)).ok());
}

// With Planner::kMass every layer selects, by the least share that passes: a smaller one fails.
TEST_F(DemoCalibrationTest, EveryLayerSelectsTheLeastShareThatPasses) {
  options_.planner = Planner::kMass;
  options_.searches_mass = true;
  options_.selection = kUsualMassSelection;
  options_.selection.min_keys = 16;
  const auto outcome = run();
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  const Schedule& schedule = outcome->schedule;
  ASSERT_TRUE(schedule.quality.passed);
  EXPECT_EQ(schedule.count(Role::kDense), 1);
  EXPECT_EQ(schedule.count(Role::kReuse), 0);
  EXPECT_EQ(schedule.calibration.planner, "mass");
  for (const QualityCheckResult& other : outcome->table) {
    EXPECT_EQ(other.quality.passed,
              other.quality.keys_attended_ratio >= schedule.quality.keys_attended_ratio);
  }
  EXPECT_LT(*schedule.quality.kv_bytes_read_per_token,
            *schedule.quality.dense_kv_bytes_read_per_token);
  options_.searches_mass = false;
  options_.selection.mass = schedule.selection.mass;
  const auto same = run();
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ(same->table.size(), 1u);
  EXPECT_EQ(same->schedule.quality.mean_kl, schedule.quality.mean_kl);
}

// The position below which a schedule is dense is measured, and the quality check does not use it.
TEST_F(DemoCalibrationTest, TheCrossoverIsMeasuredUnlessItIsGiven) {
  options_.planner = Planner::kMass;
  options_.selection = kUsualMassSelection;
  options_.selection.mass = 0.99;
  options_.max_degradation_percent = 100;
  options_.retrieval = false;
  options_.dense_below = 512;
  const auto given = run();
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_EQ(given->schedule.selection.dense_below, 512);
  EXPECT_LT(given->schedule.quality.keys_attended_ratio, 1);
  options_.dense_below = std::nullopt;
  const auto measured = run();
  ASSERT_TRUE(measured.ok()) << measured.status();
  const int32_t crossover = measured->schedule.selection.dense_below;
  EXPECT_GE(crossover, 0);
  EXPECT_TRUE(crossover % kCrossoverStep == 0 || crossover == engine_->model().context)
      << crossover;
  EXPECT_EQ(measured->schedule.quality.mean_kl, given->schedule.quality.mean_kl);
  EXPECT_TRUE(measured_times_);
  options_.max_degradation_percent = 0;
  measured_times_ = false;
  const auto failed = run();
  ASSERT_TRUE(failed.ok()) << failed.status();
  ASSERT_FALSE(failed->schedule.quality.passed);
  EXPECT_EQ(failed->schedule.selection.dense_below, 0);
  EXPECT_FALSE(measured_times_);
}

// On the bundled model importance is a poor guide: of two schedules with as many anchors, the one
// that was built from measured layer costs loses less.
TEST_F(DemoCalibrationTest, MeasuredLayerCostsGiveABetterSchedule) {
  options_.anchors = 7;
  options_.max_degradation_percent = 100;
  std::map<LayerCost, double> kl;
  for (const LayerCost cost : {LayerCost::kImportance, LayerCost::kMeasured}) {
    options_.layer_cost = cost;
    const auto outcome = run();
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_EQ(outcome->schedule.calibration.uses_measured_costs, cost == LayerCost::kMeasured);
    kl[cost] = outcome->schedule.quality.mean_kl;
  }
  EXPECT_LT(kl[LayerCost::kMeasured], kl[LayerCost::kImportance]);
}

}  // namespace
}  // namespace kascade::testing
