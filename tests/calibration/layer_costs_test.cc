// Layer costs from the KL of made-up runs.
#include "engine/calibration/layer_costs.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

constexpr double kAllSelect = 0.5;  // KL where all layers select

// Four layers of one KV head. Layer 3 is best served by layer 1, the others by layer 0.
Similarity four_layers() {
  Similarity similarity(4, 1);
  similarity.at(0, 1, 0, 0) = 0.9;
  similarity.at(0, 2, 0, 0) = 0.5;
  similarity.at(1, 2, 0, 0) = 0.4;
  similarity.at(0, 3, 0, 0) = 0.6;
  similarity.at(1, 3, 0, 0) = 0.8;
  similarity.at(2, 3, 0, 0) = 0.7;
  return similarity;
}

// A model in which reuse in layer 1, 2 or 3 adds 0.2, 0.1 or −0.1 to the KL, and density takes away
// 0.05, 0.02 or −0.01.
struct Model {
  std::vector<std::vector<LayerSchedule>> runs{};

  absl::StatusOr<double> mean_kl_of(std::vector<LayerSchedule> layers) {
    constexpr double kReuse[] = {0, 0.2, 0.1, -0.1}, kDense[] = {0, 0.05, 0.02, -0.01};
    double kl = kAllSelect;
    for (size_t layer = 1; layer < layers.size(); ++layer) {
      if (layers[layer].role == Role::kReuse) kl += kReuse[layer];
      if (layers[layer].role == Role::kDense) kl -= kDense[layer];
    }
    runs.push_back(std::move(layers));
    return kl;
  }
  absl::Status measure(const LayerCostOptions& options, Similarity& similarity) {
    return measure_layer_costs(
        options,
        [this](std::vector<LayerSchedule> layers) { return mean_kl_of(std::move(layers)); },
        similarity);
  }
};

TEST(LayerCosts, AreWhatReuseInOneLayerAloneAdds) {
  Similarity similarity = four_layers();
  Model model;
  ASSERT_TRUE(model.measure({}, similarity).ok());
  EXPECT_FALSE(similarity.reuse_cost[0].has_value());
  EXPECT_NEAR(similarity.reuse_cost[1].value_or(-1), 0.2, 1e-12);
  EXPECT_NEAR(similarity.reuse_cost[2].value_or(-1), 0.1, 1e-12);
  EXPECT_EQ(similarity.reuse_cost[3], 0);  // never negative
  // Per square of the lost recall; the least cost is 1 % of the mean.
  EXPECT_THAT(similarity.layer_cost,
              ElementsAre(0, DoubleNear(0.2 / 0.01, 1e-9), DoubleNear(0.1 / 0.25, 1e-9),
                          DoubleNear(0.001 / 0.04, 1e-9)));
  EXPECT_TRUE(similarity.select_cost.empty());

  ASSERT_EQ(model.runs.size(), 4u);
  EXPECT_LE(std::ssize(model.runs), LayerCostOptions{}.most_runs(4));
  for (size_t layer = 1; layer < 4; ++layer) {
    EXPECT_EQ(std::ranges::count(model.runs[layer], Role::kReuse, &LayerSchedule::role), 1);
    EXPECT_EQ(model.runs[layer][layer].anchor, layer == 3 ? 1 : 0);
  }
}

TEST(LayerCosts, OfSelectingAreWhatDensityWouldSave) {
  Similarity similarity = four_layers();
  Model model;
  const LayerCostOptions options{.measures_selection_loss = true};
  ASSERT_TRUE(model.measure(options, similarity).ok());
  EXPECT_THAT(similarity.select_cost,
              ElementsAre(0, DoubleNear(0.05, 1e-12), DoubleNear(0.02, 1e-12), 0));
  EXPECT_EQ(model.runs.size(), 7u);
  EXPECT_LE(std::ssize(model.runs), options.most_runs(4));
}

TEST(LayerCosts, AreNotMeasuredForDenseLayers) {
  Similarity similarity = four_layers();
  Model model;
  ASSERT_TRUE(
      model.measure({.dense_layers = {2}, .measures_selection_loss = true}, similarity).ok());
  EXPECT_EQ(model.runs.size(), 5u);
  for (const auto& layers : model.runs) EXPECT_EQ(layers[2].role, Role::kDense);
  EXPECT_FALSE(similarity.reuse_cost[2].has_value());
  EXPECT_EQ(similarity.layer_cost[2], 0);
  EXPECT_EQ(similarity.select_cost[2], 0);
  EXPECT_NEAR(similarity.reuse_cost[1].value_or(-1), 0.2, 1e-12);
}

TEST(LayerCosts, ThatWereMeasuredBeforeAreForgotten) {
  Similarity similarity = four_layers();
  Model model;
  ASSERT_TRUE(model.measure({.measures_selection_loss = true}, similarity).ok());
  const std::vector<double> weight = similarity.layer_cost;
  ASSERT_TRUE(model.measure({.dense_layers = {1}}, similarity).ok());
  EXPECT_FALSE(similarity.reuse_cost[1].has_value());
  EXPECT_TRUE(similarity.select_cost.empty());
  ASSERT_TRUE(model.measure({}, similarity).ok());
  EXPECT_EQ(similarity.layer_cost, weight);
}

TEST(LayerCosts, ErrorsEndTheMeasurement) {
  Similarity similarity = four_layers();
  int32_t runs = 0;
  const absl::Status status = measure_layer_costs(
      {},
      [&](const std::vector<LayerSchedule>&) -> absl::StatusOr<double> {
        if (++runs == 3) return absl::CancelledError("stopped");
        return kAllSelect;
      },
      similarity);
  EXPECT_TRUE(absl::IsCancelled(status));
  EXPECT_EQ(runs, 3);
}

}  // namespace
}  // namespace kascade
