// Tests the arithmetic of kascade-bench: statistics, shares of time, lower bounds, and the rating
// of the cost model.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/attention/policy.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/bench/cost_model.h"
#include "tests/bench/measured_schedule.h"
#include "tests/bench/processor_time.h"
#include "tests/bench/report.h"
#include "tests/bench/runs.h"
#include "tests/bench/samples.h"
#include "tests/bench/shapes.h"
#include "tests/bench/statistics.h"
#include "tests/bench/work.h"

namespace kascade::bench {
namespace {

using ::testing::HasSubstr;

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

// A schedule of a model with `layers` layers, of which the third reuses with another head map.
Schedule calibrated(int32_t layers, int32_t kv_heads) {
  ModelConfig config = one_b();
  config.layers = layers;
  config.kv_heads = kv_heads;
  Schedule schedule = *typical_schedule(config, 0.2);
  schedule.model.name = "some-model";
  schedule.selection.min_keys = 64;
  std::ranges::reverse(schedule.layers.at(2).head_map);
  schedule.quality.passed = true;
  seal(schedule);
  return schedule;
}

std::string saved(const Schedule& schedule, const std::string& name) {
  const std::string file = std::filesystem::path(::testing::TempDir()) / name;
  EXPECT_TRUE(save_schedule(schedule, file).ok());
  return file;
}

TEST(MeasuredSchedule, HasTheLayersHeadMapsAndSettingsOfTheFile) {
  ModelConfig config = one_b();
  config.layers = 4;
  config.kv_heads = 2;
  const Schedule made = calibrated(4, 2);
  const std::string file = saved(made, "measured.json");
  const auto measured = measured_schedule(config, file, /*ratio=*/0.5);
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(to_json(*measured->schedule), to_json(made));
  EXPECT_FALSE(measured->is_synthetic());
  const std::string text = describe(*measured);
  for (const std::string& part :
       {file, made.schedule_id, std::string("some-model, which passed its quality check"),
        std::string("1 dense, 1 anchor and 2 reuse layers, 20 % of the keys, at least 64")}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(MeasuredSchedule, IsCalledSyntheticWithoutAFile) {
  const auto measured = measured_schedule(one_b(), "", 0.1);
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_THAT(describe(*measured), HasSubstr("synthetic schedule, calibrated with no model"));
  const Circumstances circumstances{.schedule = describe(*measured)};
  EXPECT_THAT(to_markdown(circumstances, {}, {}), HasSubstr("Sparse steps: synthetic schedule"));
  EXPECT_EQ(to_json(circumstances, {}, {})["schedule"], describe(*measured));
}

TEST(MeasuredSchedule, OfAnotherShapeIsRefusedWithBothNamed) {
  const std::string file = saved(calibrated(4, 2), "refused.json");
  for (const auto& [layers, kv_heads] : {std::pair{5, 2}, {4, 8}}) {
    ModelConfig config = one_b();
    config.layers = layers;
    config.kv_heads = kv_heads;
    const auto status = measured_schedule(config, file, 0.1).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(std::string(status.message()),
              "schedule " + file +
                  ": is for 4 layers of 2 KV heads; the measured shape llama-3.2-1b has " +
                  std::to_string(layers) + " layers of " + std::to_string(kv_heads) + " KV heads");
  }
  EXPECT_FALSE(measured_schedule(one_b(), file + ".missing", 0.1).ok());
}

TEST(MeasuredSchedule, OfMassIsRefused) {
  ModelConfig config = one_b();
  config.layers = 4;
  config.kv_heads = 2;
  Schedule made = calibrated(4, 2);
  made.selection.mass = 0.9;
  seal(made);
  const auto status = measured_schedule(config, saved(made, "mass.json"), 0.1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("selection.mass is 0.9"));
}

// The policy of sparse steps is that of the file.
TEST(Runs, MeasureSparseStepsByTheScheduleOfAFile) {
  const std::string shape = std::filesystem::path(::testing::TempDir()) / "shape.json";
  std::ofstream(shape) << R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "hidden_act": "silu", "tie_word_embeddings": true})";
  Schedule made = calibrated(4, 2);
  made.selection.int4_keys = true;
  seal(made);
  const auto runs = Runs::make({.shape = shape,
                                .length = 64,
                                .depths = {512},
                                .modes = {"sparse"},
                                .schedule = saved(made, "runs.json"),
                                .threads = 1,
                                .repeat = 1});
  ASSERT_TRUE(runs.ok()) << runs.status();
  EXPECT_FALSE((*runs)->schedule().is_synthetic());
  ASSERT_TRUE((*runs)->prefill().ok());
  const auto attention_flops = [&](const Schedule& schedule) {
    const auto policy =
        make_policy(default_attention(std::make_shared<const Schedule>(schedule)), 4);
    const std::vector<RowRun> rows = {{512, 64, false}};
    return step_work((*runs)->config(), *policy, rows, 0, 2).attention_flops;
  };
  EXPECT_EQ((*runs)->measurements().front().work.attention_flops, attention_flops(made));
  EXPECT_NE(attention_flops(made), attention_flops(*typical_schedule((*runs)->config(), 0.1)));
}

TEST(ShapeNamed, RefusesWhatIsNeitherNameNorFile) {
  const auto config = shape_named("llama-9");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(config.status().message()).find("llama-3.2-1b"), std::string::npos);
}

}  // namespace
}  // namespace kascade::bench
