#include "engine/training/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/model/checkpoint.h"
#include "engine/training/backend_products.h"
#include "tests/support/tiny_model.h"

namespace kascade::training {
namespace {

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() {
    kascade::testing::write_tiny_model({.peaked = true}, folder_.path());
    config_ = *load_config(folder_.path());
    checkpoint_ = *open_checkpoint(folder_.path(), config_);
    std::mt19937 random(5);
    for (int text = 0; text < 6; ++text) {
      TrainingText made;
      for (int i = 0; i < 40; ++i) made.tokens.push_back(static_cast<int32_t>(random() % 256));
      made.targets.assign(made.tokens.begin() + 1, made.tokens.end());
      made.targets.push_back(kNoTarget);
      (text < 4 ? texts_ : held_out_).push_back(made);
    }
    AdapterOptions options;
    options.compress_block = options.compress_stride = options.selection_block = 4;
    options.window = 8;
    options.own_output = true;
    student_ = std::make_unique<Student<float>>(config_, checkpoint_, options, *products_);
    settings_.texts_per_update = 2;
    settings_.epochs = 20;
    settings_.updates_between_checks = 10;
    settings_.optimizer.learning_rate = 3e-3;
  }

  static std::unique_ptr<Backend> backend() {
    auto opened = open_backend({.name = "cpu", .weights = WeightFormat::kF32, .cpu = {.count = 2}});
    EXPECT_TRUE((*opened)->attach_thread().ok());
    return *std::move(opened);
  }

  kascade::testing::TempDir folder_;
  ModelConfig config_;
  Checkpoint checkpoint_;
  std::unique_ptr<Backend> backend_ = backend();
  std::unique_ptr<Products<float>> products_ = make_backend_products(*backend_);
  std::vector<TrainingText> texts_;
  std::vector<TrainingText> held_out_;
  std::unique_ptr<Student<float>> student_;
  TrainingSettings settings_;
};

bool always(const UpdateReport&, const TrainingState&) { return true; }

TEST_F(TrainerTest, TwoHundredUpdatesHalveTheLossOfTheLayers) {
  settings_.epochs = 100;
  Trainer trainer(*student_, texts_, held_out_, settings_);
  ASSERT_EQ(trainer.updates(), 200);
  TrainingState state = trainer.initial_state(1);
  double first = 0;
  double last = 0;
  const TrainingEnd end = trainer.run(state, [&](const UpdateReport& report, const auto&) {
    if (report.update == 1) first = report.loss;
    last = report.loss;
    return true;
  });
  EXPECT_EQ(end, TrainingEnd::kFinished);
  EXPECT_LT(last, first / 2);
}

TEST_F(TrainerTest, TheWholeModelLearnsToo) {
  settings_.stage = Stage::kModel;
  settings_.loss = *loss_named("mixed");
  Trainer trainer(*student_, texts_, texts_, settings_);
  TrainingState state = trainer.initial_state(1);
  const double before = trainer.held_out_loss(state.parameters);
  EXPECT_EQ(trainer.run(state, always), TrainingEnd::kFinished);
  EXPECT_LT(*state.best_held_out, before);
  EXPECT_EQ(trainer.held_out_loss(state.best_parameters), *state.best_held_out);
}

TEST_F(TrainerTest, ContinuedTrainingGivesTheSameBits) {
  Trainer trainer(*student_, texts_, held_out_, settings_);
  TrainingState whole = trainer.initial_state(1);
  trainer.run(whole, always);

  TrainingState parts = trainer.initial_state(1);
  TrainingState kept;
  const auto until_seventh = [&](const UpdateReport& report, const TrainingState& state) {
    kept = state;
    return report.update < 17;
  };
  EXPECT_EQ(trainer.run(parts, until_seventh), TrainingEnd::kInterrupted);
  EXPECT_EQ(kept.update, 17);
  Trainer another(*student_, texts_, held_out_, settings_);
  EXPECT_EQ(another.run(kept, always), TrainingEnd::kFinished);
  EXPECT_EQ(kept.parameters, whole.parameters);
  EXPECT_EQ(kept.moments.second, whole.moments.second);
  EXPECT_EQ(kept.best_parameters, whole.best_parameters);
  EXPECT_EQ(kept.best_held_out, whole.best_held_out);
}

TEST_F(TrainerTest, NumbersThatAreNotFiniteEndTrainingWithTheLastGoodState) {
  settings_.optimizer.learning_rate = 1e30;
  settings_.optimizer.warmup_ratio = 0;
  Trainer trainer(*student_, texts_, held_out_, settings_);
  TrainingState state = trainer.initial_state(1);
  EXPECT_EQ(trainer.run(state, always), TrainingEnd::kDiverged);
  EXPECT_LT(state.update, trainer.updates());
  for (const float value : state.parameters) ASSERT_TRUE(std::isfinite(value));
}

TEST_F(TrainerTest, TrainingStopsWithoutGain) {
  settings_.optimizer.learning_rate = 0.5;  // makes it worse
  settings_.patience = 2;
  settings_.updates_between_checks = 1;
  Trainer trainer(*student_, texts_, held_out_, settings_);
  TrainingState state = trainer.initial_state(1);
  EXPECT_EQ(trainer.run(state, always), TrainingEnd::kStoppedEarly);
  EXPECT_EQ(state.checks_without_gain, 2);
}

TEST(LearningRate, RisesAndFalls) {
  OptimizerSettings settings{.learning_rate = 1, .warmup_ratio = 0.1, .decay = Decay::kLinear};
  EXPECT_DOUBLE_EQ(learning_rate_at(settings, 0, 100), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate_at(settings, 9, 100), 1);
  EXPECT_DOUBLE_EQ(learning_rate_at(settings, 55, 100), 0.5);
  settings.decay = Decay::kCosine;
  EXPECT_NEAR(learning_rate_at(settings, 55, 100), 0.5, 1e-12);
  settings.decay = Decay::kNone;
  EXPECT_DOUBLE_EQ(learning_rate_at(settings, 99, 100), 1);
}

// One parameter against AdamW's formulas.
TEST(Optimizer, UpdatesAsAdamWDoes) {
  const AdapterShape shape{.layers = 1, .hidden = 1, .heads = 1, .kv_heads = 1, .head_dim = 1};
  AdapterOptions options;
  options.compress_block = options.compress_stride = options.selection_block = 1;
  options.value_compressor = Compressor::kMax;
  const LayerParameters layer = layer_parameters(shape, options);
  std::vector<float> parameters(layer.size, 2.0f);
  std::vector<float> gradient(layer.size, 0.0f);
  gradient[layer.gate_weight.offset] = 3;
  gradient[layer.gate_bias.offset] = 4;
  Moments moments{std::vector<float>(layer.size), std::vector<float>(layer.size)};
  const OptimizerSettings settings{
      .learning_rate = 0.1, .warmup_ratio = 0, .decay = Decay::kNone, .weight_decay = 0.5};
  EXPECT_DOUBLE_EQ(update_parameters(settings, layer, 0, 10, gradient, moments, parameters), 5);
  // The first step is the sign of the gradient; a matrix decays, a bias does not.
  EXPECT_NEAR(parameters[layer.gate_weight.offset], 2 - 0.1 * (1 + 0.5 * 2), 1e-6);
  EXPECT_NEAR(parameters[layer.gate_bias.offset], 2 - 0.1, 1e-6);
  EXPECT_NEAR(moments.first[layer.gate_weight.offset], 0.1 * 3 / 5, 1e-7);  // clipped to norm 1
  EXPECT_FLOAT_EQ(parameters[layer.gate_bias.offset + 1], 2);
}

}  // namespace
}  // namespace kascade::training
