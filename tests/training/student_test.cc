#include "engine/training/student.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/model/checkpoint.h"
#include "engine/training/backend_products.h"
#include "tests/support/tiny_model.h"

namespace kascade::training {
namespace {

AdapterOptions small_options() {
  AdapterOptions options;
  options.compress_block = 4;
  options.compress_stride = 2;
  options.selection_block = 4;
  options.selected_blocks = 3;
  options.window = 5;
  options.compressor_norm = true;
  return options;
}

class StudentTest : public ::testing::Test {
 protected:
  void open(const kascade::testing::TinyModel& model = {}) {
    kascade::testing::write_tiny_model(model, folder_.path());
    config_ = *load_config(folder_.path());
    checkpoint_ = *open_checkpoint(folder_.path(), config_);
    std::mt19937 random(3);
    for (int i = 0; i < 19; ++i) tokens_.push_back(static_cast<int32_t>(random() % 256));
    targets_.assign(tokens_.begin() + 1, tokens_.end());
    targets_.push_back(kNoTarget);
    targets_[4] = kNoTarget;
  }
  std::unique_ptr<Student<double>> student(const AdapterOptions& options) {
    return std::make_unique<Student<double>>(config_, checkpoint_, options, *products_);
  }

  kascade::testing::TempDir folder_;
  ModelConfig config_;
  Checkpoint checkpoint_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> targets_;
  std::unique_ptr<Products<double>> products_ = make_plain_products();
};

// Random changes of the initial parameters, so that nothing is zero.
template <typename T>
std::vector<T> random_parameters(const Student<T>& student) {
  std::mt19937 random(11);
  std::normal_distribution<double> normal(0, 0.2);
  std::vector<T> parameters = student.initial_parameters(5);
  for (T& value : parameters) value += static_cast<T>(normal(random));
  return parameters;
}

// Compares every `stride`-th gradient with the difference of the loss around the parameter.
void expect_gradients(std::vector<double> parameters, const std::vector<double>& gradient,
                      size_t stride, const std::function<double(const double*)>& loss) {
  double largest = 0;
  for (const double g : gradient) largest = std::max(largest, std::abs(g));
  ASSERT_GT(largest, 0);
  for (size_t i = 0; i < parameters.size(); i += stride) {
    constexpr double kStep = 1e-5;
    const double value = parameters[i];
    parameters[i] = value + kStep;
    const double above = loss(parameters.data());
    parameters[i] = value - kStep;
    const double below = loss(parameters.data());
    parameters[i] = value;
    ASSERT_NEAR(gradient[i], (above - below) / (2 * kStep), 1e-6 * std::max(largest, 1e-3)) << i;
  }
}

TEST_F(StudentTest, GradientsOfTheWholeModelAreDifferencesOfTheLoss) {
  open({.biases = true});
  for (const std::string name : {"mse_hidden", "kl_logits", "kl_output_only", "mixed", "ce"}) {
    SCOPED_TRACE(name);
    AdapterOptions options = small_options();
    options.own_output = name == "mixed";
    const auto model = student(options);
    const LossSettings settings = *loss_named(name);
    const std::vector<double> parameters = random_parameters(*model);
    const Stream<double> teacher = model->dense_stream(tokens_);
    std::vector<double> gradient(parameters.size());
    const TextLoss loss =
        model->text_loss(tokens_, teacher, targets_, settings, parameters.data(), gradient.data());
    EXPECT_GT(loss.loss, 0);
    expect_gradients(parameters, gradient, 61, [&](const double* changed) {
      return model->text_loss(tokens_, teacher, targets_, settings, changed, nullptr).loss;
    });
  }
}

TEST_F(StudentTest, GradientsOfOneLayerAreDifferencesOfItsLoss) {
  open();
  AdapterOptions options = small_options();
  options.own_projections = true;
  const auto model = student(options);
  std::vector<double> parameters = random_parameters(*model);
  parameters.resize(model->layer_size());
  const Rows<double> x = model->dense_stream(tokens_)[1];
  std::vector<double> gradient(parameters.size());
  model->layer_loss(1, x, parameters.data(), gradient.data());
  expect_gradients(parameters, gradient, 29, [&](const double* changed) {
    return model->layer_loss(1, x, changed, nullptr);
  });
}

// Before training, gates that take the window alone make a model whose window covers the text equal
// to the dense model.
TEST_F(StudentTest, TheStartIsDenseIfTheGatesTakeTheWindowAlone) {
  open({.layers = 3});
  AdapterOptions options = small_options();
  options.window = 64;
  options.gate = GateFunction::kSoftmax;
  options.gate_start = {-50, -50, 50};
  options.own_output = options.own_projections = true;
  const auto model = student(options);
  const std::vector<double> parameters = model->initial_parameters(1);
  const Stream<double> dense = model->dense_stream(tokens_);
  const Stream<double> adapted = model->adapted_stream(tokens_, parameters.data());
  for (size_t layer = 0; layer < dense.size(); ++layer) {
    for (size_t i = 0; i < dense[layer].values.size(); ++i) {
      ASSERT_NEAR(dense[layer].values[i], adapted[layer].values[i], 1e-9) << layer;
    }
  }
  const std::array<double, kBranches> weights = model->branch_weights(dense, parameters.data());
  EXPECT_NEAR(weights[2], 1, 1e-12);
}

// The products of a backend in f32 against plain loops in f64. Sums of at most 64 products of
// numbers around 1 in two layers stay within some thousand roundings.
TEST_F(StudentTest, BackendsComputeTheSameGradients) {
  open();
  const auto exact = student(small_options());
  const std::vector<double> parameters = random_parameters(*exact);
  const LossSettings settings = *loss_named("mixed");
  std::vector<double> gradient(parameters.size());
  exact->text_loss(tokens_, exact->dense_stream(tokens_), targets_, settings, parameters.data(),
                   gradient.data());
  const auto backend =
      *open_backend({.name = "cpu", .weights = WeightFormat::kF32, .cpu = {.count = 2}});
  ASSERT_TRUE(backend->attach_thread().ok());
  const auto products = make_backend_products(*backend);
  const Student<float> rounded(config_, checkpoint_, small_options(), *products);
  const std::vector<float> rounded_parameters(parameters.begin(), parameters.end());
  std::vector<float> rounded_gradient(parameters.size());
  rounded.text_loss(tokens_, rounded.dense_stream(tokens_), targets_, settings,
                    rounded_parameters.data(), rounded_gradient.data());
  double largest = 0;
  for (const double g : gradient) largest = std::max(largest, std::abs(g));
  for (size_t i = 0; i < gradient.size(); ++i) {
    ASSERT_NEAR(gradient[i], rounded_gradient[i], 2e-4 * largest) << i;
  }
}

TEST_F(StudentTest, ModelsThatAreNotComputedAreRefusedByName) {
  open({.model_type = "qwen3"});
  EXPECT_EQ(trainable(config_, checkpoint_).code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(trainable(config_, checkpoint_).message().find("norms of query and key heads"),
            std::string::npos);
}

TEST(Losses, AreNamed) {
  EXPECT_EQ(loss_named("mixed")->cross_entropy, 0.3);
  EXPECT_FALSE(loss_named("l1").ok());
}

}  // namespace
}  // namespace kascade::training
