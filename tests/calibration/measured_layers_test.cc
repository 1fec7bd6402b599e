// What is told of the layers of a schedule, and the thresholds that follow from similarities.
#include "engine/calibration/measured_layers.h"

#include <cmath>
#include <optional>
#include <vector>

#include "gtest/gtest.h"

namespace kascade {
namespace {

constexpr int32_t kLayers = 6;

// One KV head; the similarity of layer b to a is 0.9 − 0.1 · (b − a), less 0.01 · b.
Similarity fading() {
  Similarity similarity(kLayers, 1);
  for (int32_t b = 0; b < kLayers; ++b) {
    for (int32_t a = 0; a < b; ++a) similarity.at(a, b, 0, 0) = 0.9 - 0.1 * (b - a) - 0.01 * b;
  }
  return similarity;
}

TEST(MeasuredLayers, SpreadIsThatOfTheWindowsThroughTheHeadMap) {
  std::vector<Similarity> windows(4, Similarity(3, 2));
  const double values[] = {0.5, 0.2, 0.9, 0.6};
  for (size_t i = 0; i < windows.size(); ++i) {
    windows[i].at(1, 2, 0, 1) = values[i];
    windows[i].at(1, 2, 1, 0) = values[i] / 2;
    windows[i].at(1, 2, 1, 1) = 1;  // a head that the map does not name
  }
  Similarity mean(3, 2);
  mean.self_recall = {0.4, 0.5, 0.6};
  mean.recall(1, 2, 0, 1) = 0.3;
  mean.recall(1, 2, 1, 0) = 0.2;
  std::vector<LayerSchedule> layers(3, {.head_map = {0, 1}});
  layers[1].role = Role::kAnchor;
  layers[2] = {.role = Role::kReuse, .anchor = 1, .head_map = {1, 0}};
  const auto measured = measured_layers(layers, mean, windows);
  ASSERT_EQ(measured.size(), 3u);
  EXPECT_EQ(measured[0].recall, 0.4);
  EXPECT_EQ(measured[1].recall, 0.5);
  EXPECT_DOUBLE_EQ(measured[2].recall, 0.25);
  EXPECT_FALSE(measured[1].similarity);
  ASSERT_TRUE(measured[2].similarity);
  EXPECT_DOUBLE_EQ(measured[2].similarity->min, 0.15);
  EXPECT_DOUBLE_EQ(measured[2].similarity->median, 0.75 * (0.5 + 0.6) / 2);
  EXPECT_DOUBLE_EQ(measured[2].similarity->max, 0.675);
  windows.erase(windows.begin() + 1, windows.end());
  const auto one = measured_layers(layers, mean, windows);
  EXPECT_EQ(one[2].similarity->min, one[2].similarity->max);
  EXPECT_EQ(one[2].similarity->min, one[2].similarity->median);
}

TEST(MostSimilarPair, IsWithinReachAndNotOfADenseLayer) {
  const auto pair = most_similar_pair(fading(), 4, {});
  ASSERT_TRUE(pair);
  EXPECT_EQ(pair->layer, 2);
  EXPECT_EQ(pair->anchor, 1);  // layer 0 serves no other
  EXPECT_DOUBLE_EQ(pair->similarity, 0.78);
  Similarity far = fading();
  far.at(1, 5, 0, 0) = 0.99;
  EXPECT_EQ(most_similar_pair(far, 4, {})->layer, 2);
  EXPECT_EQ(most_similar_pair(far, 5, {})->layer, 5);
  EXPECT_EQ(most_similar_pair(far, 5, {2, 5})->layer, 3);
  EXPECT_FALSE(most_similar_pair(fading(), 1, {}));
  EXPECT_FALSE(most_similar_pair(Similarity(2, 1), 4, {}));
}

// The threshold that is told makes the greedy planner let just this layer reuse.
TEST(MostSimilarPair, ItsThresholdLetsTheLayerReuse) {
  Similarity similarity = fading();
  for (const double value : {0.5799999, 0.58, 0.29, 0.003, 1.0}) {
    for (int32_t b = 0; b < kLayers; ++b) {
      for (int32_t a = 0; a < b; ++a) similarity.at(a, b, 0, 0) = 0;
    }
    similarity.at(3, 4, 0, 0) = value;
    const auto pair = most_similar_pair(similarity, 4, {});
    ASSERT_TRUE(pair);
    EXPECT_LE(pair->threshold, value);
    EXPECT_GT(pair->threshold, value - 0.01 - 1e-12);
    EXPECT_NEAR(pair->threshold * 100, std::round(pair->threshold * 100), 1e-9);
    if (pair->threshold == 0) continue;
    const auto layers = greedy_schedule(similarity, {pair->threshold, 4}, {});
    EXPECT_EQ(layers[4].role, Role::kReuse) << value;
    EXPECT_EQ(layers[4].anchor, 3) << value;
    const auto above = greedy_schedule(similarity, {pair->threshold + 0.011, 4}, {});
    EXPECT_EQ(above[4].role, Role::kAnchor) << value;
  }
}

TEST(AutoThreshold, IsNineTenthsOfTheMedianOfNeighbours) {
  // Of the layers 2 to 5 to the layer before: 0.78, 0.77, 0.76, 0.75.
  const auto chosen = auto_threshold(fading(), {});
  ASSERT_TRUE(chosen);
  EXPECT_DOUBLE_EQ(chosen->median_similarity, 0.765);
  EXPECT_DOUBLE_EQ(chosen->threshold, 0.9 * 0.765);
  EXPECT_DOUBLE_EQ(auto_threshold(fading(), {3})->median_similarity, 0.76);
  EXPECT_FALSE(auto_threshold(Similarity(2, 1), {}));
  EXPECT_FALSE(auto_threshold(fading(), {2, 3, 4, 5}));
}

// Whatever the similarities are, some layer reuses.
TEST(AutoThreshold, AlwaysLetsSomeLayerReuse) {
  Similarity similarity(kLayers, 1);
  for (int32_t trial = 0; trial < 50; ++trial) {
    for (int32_t b = 0; b < kLayers; ++b) {
      for (int32_t a = 0; a < b; ++a) {
        similarity.at(a, b, 0, 0) = std::fmod(0.37 * trial + 0.61 * a + 0.43 * b, 1.0);
      }
    }
    const auto chosen = auto_threshold(similarity, {});
    ASSERT_TRUE(chosen);
    const auto layers = greedy_schedule(similarity, {chosen->threshold, 2}, {});
    std::vector<int32_t> reusing;
    for (int32_t b = 0; b < kLayers; ++b) {
      if (layers[b].role == Role::kReuse) reusing.push_back(b);
    }
    EXPECT_FALSE(reusing.empty()) << trial;
  }
}

}  // namespace
}  // namespace kascade
