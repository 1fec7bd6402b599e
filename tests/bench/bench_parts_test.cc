// Tests the arithmetic of kascade-bench: statistics, shares of time, lower bounds, and the rating
// of the cost model.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/attention/policy.h"
#include "gtest/gtest.h"
#include "tests/bench/cost_model.h"
#include "tests/bench/processor_time.h"
#include "tests/bench/samples.h"
#include "tests/bench/shapes.h"
#include "tests/bench/statistics.h"
#include "tests/bench/work.h"

namespace kascade::bench {
namespace {

TEST(Summarize, MedianAndRange) {
  const Summary odd = summarize({5, 1, 3});
  EXPECT_EQ(odd.median, 3);
  EXPECT_EQ(odd.least, 1);
  EXPECT_EQ(odd.most, 5);
  EXPECT_EQ(summarize({4, 1, 3, 2}).median, 2.5);
  EXPECT_EQ(summarize({}).median, 0);
}

TEST(ProcessorTime, ParsesTheFirstLine) {
  const auto ticks = parse_proc_stat("cpu  100 20 30 4000 50 6 7 8 9 10\ncpu0 1 1 1 1 1 1 1 1");
  ASSERT_TRUE(ticks.has_value());
  EXPECT_EQ(ticks->busy, 100 + 20 + 30 + 6 + 7);
  EXPECT_EQ(ticks->stolen, 8);
  for (const char* text : {"", "cpu", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3", "intr 1 2"}) {
    EXPECT_EQ(parse_proc_stat(text), std::nullopt) << text;
  }
}

TEST(ProcessorTime, ForeignShareIsBusyMinusOwnOfAllProcessors) {
  const ProcessorTime before{.wall_seconds = 10, .busy_seconds = 100, .own_seconds = 7};
  const ProcessorTime after{.wall_seconds = 12, .busy_seconds = 103, .own_seconds = 9.5};
  EXPECT_DOUBLE_EQ(foreign_share(before, after, 2), 0.5 / 4);
  EXPECT_DOUBLE_EQ(foreign_share(before, after, 1), 0.5 / 2);
  // Ticks lag behind: own time may exceed what is booked as busy.
  EXPECT_EQ(foreign_share(before, {12, 101, 9.5}, 2), 0);
  EXPECT_EQ(foreign_share(before, before, 2), 0);
}

TEST(Sift, DropsDisturbedSamplesUnlessAllAre) {
  const std::vector<Sample> samples = {{.seconds = 1, .foreign_share = 0.01},
                                       {.seconds = 2, .foreign_share = 0.5},
                                       {.seconds = 3, .foreign_share = kMostForeignShare}};
  const SampleSet some = sift(samples, kMostForeignShare);
  EXPECT_EQ(some.kept.size(), 2u);
  EXPECT_EQ(some.dropped, 1);
  EXPECT_FALSE(some.all_disturbed);
  EXPECT_EQ(some.of([](const Sample& sample) { return sample.seconds; }).median, 2);
  const SampleSet none = sift({samples[1]}, kMostForeignShare);
  EXPECT_EQ(none.kept.size(), 1u);
  EXPECT_TRUE(none.all_disturbed);
}

ModelConfig one_b() { return *shape_named("llama-3.2-1b"); }

TEST(Floor, DensePrefillOfALlama1B) {
  const ModelConfig config = one_b();
  EXPECT_NEAR(matmul_flops_per_row(config), 1.946e9, 1e6);
  const std::vector<RowRun> chunk = {{8192, 512, false}};
  const StepWork work = step_work(config, *make_dense_policy(), chunk, 2.47e9, 2);
  // 4 · 16 layers · 2048 per key, 8192 + 256.5 keys on average.
  EXPECT_NEAR(work.attention_flops / 512, 1.31072e5 * 8448.5, 1);
  EXPECT_EQ(work.scoring_flops, 0);
  EXPECT_DOUBLE_EQ(work.kv_bytes, 8704.0 * 32768);
  const Speeds speeds{.matmul = 464e9, .attention = 464e9, .read = 35e9};
  EXPECT_NEAR(512 / floor_seconds(work, speeds), 152, 1);
}

TEST(Floor, DenseDecodeReadsWeightsAndCache) {
  const ModelConfig config = one_b();
  const std::vector<RowRun> rows = {{16383, 1, true}, {16383, 1, true}};
  const StepWork work = step_work(config, *make_dense_policy(), rows, 2.47e9, 2);
  EXPECT_DOUBLE_EQ(work.kv_bytes, 2 * 16384.0 * 32768);
  EXPECT_DOUBLE_EQ(work.head_flops, 2 * 2.0 * 2048 * 128256);
  EXPECT_DOUBLE_EQ(floor_seconds(work, {464e9, 464e9, 35e9}), (2.47e9 + work.kv_bytes) / 35e9);
}

TEST(Floor, SparseDecodeScoresInAnchorsOnly) {
  const ModelConfig config = one_b();
  const auto policy = make_policy(default_attention(typical_schedule(config, 0.10)), config.layers);
  const std::vector<RowRun> row = {{16384, 1, true}};
  const StepWork work = step_work(config, *policy, row, 0, 2);
  const double attended = 1 * 16385 + 15 * (1638 + 1);
  EXPECT_DOUBLE_EQ(work.attention_flops, 4 * 2048 * attended);
  EXPECT_DOUBLE_EQ(work.scoring_flops, 2 * 2048 * 4 * 16385.0);
  // Layer 0 reads keys and values; anchors all keys and the chosen values; the rest what they
  // attend to.
  const double read = 2 * 16385.0 + 4 * (16385 + 1639) + 11 * 2 * 1639;
  EXPECT_DOUBLE_EQ(work.kv_bytes, read * 512 * 2);
}

TEST(Costs, PredictWhatTheFitHasNotSeen) {
  const ModelConfig config = one_b();
  const auto policies = {
      make_dense_policy(),
      make_policy(default_attention(typical_schedule(config, 0.10)), config.layers)};
  std::vector<MeasuredStep> steps;
  for (const auto& policy : policies) {
    for (const int32_t rows : {1, 128, 512}) {
      for (const int32_t depth : {0, 2048, 4096, 8192, 16384}) {
        const std::vector<RowRun> runs = {{depth, rows, rows == 1}};
        const StepWork work = step_work(config, *policy, runs, 2.47e9, 2);
        const double attended = work.attention_flops / (4.0 * config.q_dim());
        const double scored = work.scoring_flops / (2.0 * config.q_dim());
        MeasuredStep step{.name = "step",
                          .features = {.rows = 1.0 * rows, .logit_rows = 1},
                          .fitted = steps.size() % 2 == 0};
        (rows == 1 ? step.features.row_keys_attended : step.features.tile_keys_attended) = attended;
        (rows == 1 ? step.features.row_keys_scored : step.features.tile_keys_scored) = scored;
        step.seconds = 0.01 + std::max(2.47e9 / 35e9, work.matmul_flops / 464e9) +
                       1e-8 * attended * (rows == 1 ? 3 : 1) + 1e-8 * scored;
        steps.push_back(step);
      }
    }
  }
  const CostModel model = fit_costs(steps).value_or(CostModel{});
  ASSERT_EQ(model.judged.size(), 15u);
  EXPECT_LT(model.absolute_error.most, 0.03);  // 15 steps for 8 costs
  EXPECT_NEAR(model.costs[4], 1e-8, 2e-10);
}

TEST(Costs, TooFewStepsPredictNothing) {
  const MeasuredStep step{.name = "step", .features = {.rows = 1}, .seconds = 1, .fitted = true};
  EXPECT_FALSE(fit_costs({step, step}).has_value());
}

TEST(TypicalSchedule, OneDenseAQuarterAnchors) {
  for (const char* name : {"llama-3.2-1b", "llama-3.1-8b", "smollm2-135m"}) {
    const ModelConfig config = *shape_named(name);
    const auto schedule = typical_schedule(config, 0.10);
    EXPECT_TRUE(validate(*schedule, {config.layers, config.kv_heads}).ok()) << name;
    EXPECT_EQ(schedule->count(Role::kDense), 1);
    EXPECT_EQ(schedule->count(Role::kAnchor), config.layers / 4);
  }
  for (int32_t layers = 1; layers < 6; ++layers) {
    ModelConfig config = one_b();
    config.layers = layers;
    EXPECT_TRUE(validate(*typical_schedule(config, 0.10), {layers, config.kv_heads}).ok());
  }
}

TEST(ShapeNamed, RefusesWhatIsNeitherNameNorFile) {
  const auto config = shape_named("llama-9");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(config.status().message()).find("llama-3.2-1b"), std::string::npos);
}

}  // namespace
}  // namespace kascade::bench
