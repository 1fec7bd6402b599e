// Head maps, layer similarities and the two planners, against enumeration and an example.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "engine/schedule/schedule.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Values are multiples of 1/64 with `levels` different ones, so that every sum is exact and few
// levels give many ties.
Similarity random_similarity(int32_t layers, int32_t levels, uint64_t seed) {
  std::mt19937_64 random(seed);
  Similarity similarity(layers, 2);
  const auto draw = [&] { return static_cast<double>(random() % levels + 1) / 64; };
  for (int32_t a = 0; a < layers; ++a) {
    similarity.importance[a] = draw();
    for (int32_t b = a + 1; b < layers; ++b) {
      for (int32_t cell = 0; cell < 4; ++cell) similarity.at(a, b, cell / 2, cell % 2) = draw();
    }
  }
  return similarity;
}

double value_of(const Similarity& similarity, const std::vector<int32_t>& starts) {
  double sum = 0;
  for (int32_t layer = 0; layer < similarity.layers(); ++layer) {
    const int32_t source = *std::prev(std::upper_bound(starts.begin(), starts.end(), layer));
    sum += similarity.importance[layer] * (source == layer ? 1 : similarity.layer(source, layer));
  }
  return sum;
}

std::vector<int32_t> starts_of(const std::vector<LayerSchedule>& layers) {
  std::vector<int32_t> starts;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    if (layers[layer].role != Role::kReuse) starts.push_back(static_cast<int32_t>(layer));
  }
  return starts;
}

// Finds the best starts with `anchors` anchors by trying all sets. Of equally good sets it takes
// the one with the smallest last start, then the smallest start before that one.
std::vector<int32_t> enumerate(const Similarity& similarity, const std::set<int32_t>& dense,
                               int32_t anchors) {
  std::vector<int32_t> best;
  for (uint32_t bits = 1; bits < (1u << similarity.layers()); bits += 2) {
    std::vector<int32_t> starts;
    for (int32_t layer = 0; layer < similarity.layers(); ++layer) {
      if ((bits >> layer & 1) != 0) starts.push_back(layer);
    }
    const bool holds_dense =
        std::includes(starts.begin(), starts.end(), dense.begin(), dense.end());
    if (!holds_dense || starts.size() != dense.size() + anchors) continue;
    if (best.empty()) best = starts;
    const double gain = value_of(similarity, starts) - value_of(similarity, best);
    const bool smaller =
        std::lexicographical_compare(starts.rbegin(), starts.rend(), best.rbegin(), best.rend());
    if (gain > 0 || (gain == 0 && smaller)) best = starts;
  }
  return best;
}

void expect_optimal(const Similarity& similarity, const std::set<int32_t>& dense) {
  const auto schedules = schedules_by_dynamic_programming(similarity, {dense.begin(), dense.end()});
  const auto most = similarity.layers() - static_cast<int32_t>(dense.size());
  ASSERT_EQ(schedules.size(), static_cast<size_t>(most));
  const double importance =
      std::accumulate(similarity.importance.begin(), similarity.importance.end(), 0.0);
  for (int32_t anchors = 1; anchors <= most; ++anchors) {
    const std::vector<LayerSchedule>& layers = schedules[anchors - 1];
    const std::vector<int32_t> expected = enumerate(similarity, dense, anchors);
    EXPECT_EQ(starts_of(layers), expected) << anchors << " of " << similarity.layers();
    EXPECT_NEAR(predicted_similarity(layers), value_of(similarity, expected) / importance, 1e-12);
  }
}

Schedule schedule_of(std::vector<LayerSchedule> layers) {
  Schedule schedule;
  schedule.layers = std::move(layers);
  return schedule;
}

TEST(SimilarityTensor, HeadMapIsTheArgMaxWithTiesToTheLowest) {
  Similarity similarity(3, 3);
  const double values[3][3] = {{0.1, 0.7, 0.7}, {0.5, 0.5, 0.5}, {0.2, 0.1, 0.9}};
  for (int32_t g_b = 0; g_b < 3; ++g_b) {
    for (int32_t g_a = 0; g_a < 3; ++g_a) similarity.at(0, 2, g_b, g_a) = values[g_b][g_a];
  }
  EXPECT_THAT(similarity.head_map(0, 2), ElementsAre(1, 0, 2));
  EXPECT_DOUBLE_EQ(similarity.layer(0, 2), (0.7 + 0.5 + 0.9) / 3);
  EXPECT_THAT(similarity.head_map(1, 2), ElementsAre(0, 0, 0));
  EXPECT_EQ(similarity.layer(0, 1), 0);
  EXPECT_EQ(similarity.at(0, 2, 2, 0), 0.2);
  EXPECT_EQ(similarity.at(0, 2, 0, 2), 0.7);
}

TEST(SimilarityTensor, ALayerIsLikeItself) {
  const Similarity similarity(4, 5);
  EXPECT_EQ(similarity.layer(3, 3), 1);
  EXPECT_THAT(similarity.head_map(2, 2), ElementsAre(0, 1, 2, 3, 4));
}

TEST(Optimal, EqualsEnumeration) {
  for (int32_t layers = 1; layers <= 9; ++layers) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      expect_optimal(random_similarity(layers, 64, seed), {});
    }
  }
}

TEST(Optimal, EqualsEnumerationWithTies) {
  for (int32_t layers = 1; layers <= 9; ++layers) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      expect_optimal(random_similarity(layers, 1 + static_cast<int32_t>(seed % 3), seed), {});
    }
  }
}

TEST(Optimal, EqualsEnumerationWithDenseLayers) {
  std::mt19937_64 random(3);
  for (int32_t layers = 2; layers <= 9; ++layers) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      std::set<int32_t> dense;
      for (uint64_t count = 1 + random() % 3; count > 0; --count) {
        dense.insert(1 + static_cast<int32_t>(random() % (layers - 1)));
      }
      expect_optimal(random_similarity(layers, seed % 2 == 0 ? 64 : 2, seed), dense);
    }
  }
}

TEST(Optimal, EqualsEnumerationOfInexactFigures) {
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> share(0, 1);
  Similarity similarity(9, 2);
  for (int32_t a = 0; a < 9; ++a) {
    similarity.importance[a] = share(random);
    for (int32_t b = a + 1; b < 9; ++b) similarity.at(a, b, 0, 1) = share(random);
  }
  expect_optimal(similarity, {});
}

// The schedule has the least Σ weight · lost² of all sets of two anchors beside layer 0.
TEST(Optimal, WeightsCountTheSquareOfWhatIsLost) {
  constexpr int32_t kLayers = 9;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Similarity similarity = random_similarity(kLayers, 60, seed);
    similarity.layer_cost = similarity.importance;
    similarity.importance.assign(kLayers, 0.25);
    const auto cost = [&](int32_t a, int32_t b) {
      double sum = 0;
      for (int32_t layer = 0; layer < kLayers; ++layer) {
        const int32_t source = layer < a ? 0 : layer < b ? a : b;
        const double lost = source == layer ? 0 : 1 - similarity.layer(source, layer);
        sum += similarity.layer_cost[layer] * lost * lost;
      }
      return sum;
    };
    double least = 1e9;
    for (int32_t a = 1; a < kLayers; ++a) {
      for (int32_t b = a + 1; b < kLayers; ++b) least = std::min(least, cost(a, b));
    }
    const std::vector<LayerSchedule> layers = schedules_by_dynamic_programming(similarity, {})[2];
    const std::vector<int32_t> starts = starts_of(layers);
    ASSERT_EQ(starts.size(), 3u);
    EXPECT_NEAR(cost(starts[1], starts[2]), least, 1e-12);
    EXPECT_EQ(layers.back().importance, 0.25);  // stated as measured
  }
}

TEST(Optimal, SchedulesAreValid) {
  const Similarity similarity = random_similarity(9, 64, 1);
  for (const auto& dense : {std::vector<int32_t>{}, {1, 4}, {8}}) {
    for (const auto& layers : schedules_by_dynamic_programming(similarity, dense)) {
      EXPECT_EQ(validate(schedule_of(layers), {.layers = 9, .kv_heads = 2}), absl::OkStatus());
    }
  }
}

TEST(Optimal, DenseLayersServeAndAreNotCounted) {
  const auto schedules =
      schedules_by_dynamic_programming(random_similarity(5, 64, 2), {2, 2, 0, -1, 77});
  ASSERT_EQ(schedules.size(), 4u);
  EXPECT_EQ(starts_of(schedules[0]), (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(schedules[0][2].role, Role::kDense);
  EXPECT_EQ(schedules[0][2].reason, "kept dense");
  EXPECT_EQ(schedules[0][1].anchor, 0);
  EXPECT_EQ(schedules[0][4].anchor, 2);
  EXPECT_EQ(starts_of(schedules[3]), (std::vector<int32_t>{0, 1, 2, 3, 4}));
}

TEST(Optimal, DenseReasonStatesTheRecall) {
  Similarity similarity = random_similarity(3, 64, 2);
  similarity.self_recall[1] = 0.5321;
  EXPECT_EQ(schedules_by_dynamic_programming(similarity, {1})[0][1].reason,
            "kept dense: its own budget recalls 53.21 %");
}

TEST(Optimal, DenseReasonStatesWhatSelectingCosts) {
  Similarity similarity = random_similarity(3, 64, 2);
  similarity.self_recall = {0, 0.5321, 0.6};
  similarity.select_cost = {0, 0.00201, 0};  // layer 2 was dense when costs were measured
  const std::vector<LayerSchedule> layers = schedules_by_dynamic_programming(similarity, {1, 2})[0];
  EXPECT_EQ(layers[1].reason, "kept dense: its own choice costs 0.00201 nats");
  EXPECT_EQ(layers[2].reason, "kept dense: its own budget recalls 60.00 %");
}

TEST(Optimal, MeasuredSimilarityAboveOneIsClamped) {
  Similarity similarity(2, 1);
  similarity.at(0, 1, 0, 0) = 1.25;
  similarity.importance = {1, -1e-17};
  const auto layers = schedules_by_dynamic_programming(similarity, {})[0];
  EXPECT_EQ(layers[1].similarity, 1);
  EXPECT_EQ(layers[1].importance, 0);
}

TEST(Optimal, NoLayersNoSchedules) {
  EXPECT_TRUE(schedules_by_dynamic_programming(Similarity(0, 1), {}).empty());
}

TEST(Optimal, NotANumberIsHarmless) {
  Similarity similarity(6, 1);
  similarity.importance.assign(6, std::nan(""));
  const auto schedules = schedules_by_dynamic_programming(similarity, {3});
  ASSERT_EQ(schedules.size(), 5u);
  for (const auto& layers : schedules) EXPECT_EQ(layers.size(), 6u);
}

TEST(PredictedSimilarity, IsWeightedByImportance) {
  EXPECT_EQ(predicted_similarity({}), 0);
  EXPECT_DOUBLE_EQ(predicted_similarity(
                       {{.similarity = 1, .importance = 3}, {.similarity = 0.5, .importance = 1}}),
                   3.5 / 4);
  EXPECT_DOUBLE_EQ(predicted_similarity({{.similarity = 1}, {.similarity = 0.5}}), 0.75);
}

// Similarities of an example with 16 layers. Those that it does not state are low.
Similarity documented_example() {
  Similarity similarity(16, 1);
  const auto set = [&](int32_t a, int32_t b, double value) { similarity.at(a, b, 0, 0) = value; };
  for (int32_t a = 0; a < 16; ++a) {
    for (int32_t b = a + 1; b < 16; ++b) set(a, b, 0.3);
  }
  for (int32_t b = 1; b < 16; ++b)
    set(0, b, 0.99);  // high, but layer 0 is no source for the greedy planner
  set(1, 2, 0.5535);
  const double shares[] = {0.96, 0.95, 0.93, 0.97, 0.93, 0.88, 0.90, 0.86, 0.83, 0.76};
  const int32_t layers[] = {3, 4, 5, 7, 8, 9, 11, 12, 13, 15};
  for (int32_t index = 0; index < 10; ++index) {
    set((layers[index] - 3) / 4 * 4 + 2, layers[index], shares[index]);
  }
  for (const int32_t anchor : {2, 6, 10}) set(anchor, anchor + 4, 0.94);  // out of reach
  return similarity;
}

TEST(Greedy, ReproducesTheDocumentedExample) {
  const auto layers =
      greedy_schedule(documented_example(), {.threshold = 0.65, .max_reuse_dist = 4}, {});
  const Schedule schedule = schedule_of(layers);
  ASSERT_EQ(validate(schedule, {.layers = 16, .kv_heads = 1}), absl::OkStatus());
  EXPECT_EQ(schedule.count(Role::kReuse), 10);
  EXPECT_EQ(layers[0].role, Role::kDense);
  EXPECT_EQ(starts_of(layers), (std::vector<int32_t>{0, 1, 2, 6, 10, 14}));
  for (const int32_t anchor : {2, 6, 10, 14}) {
    for (int32_t layer = anchor + 1; layer < std::min(anchor + 4, 16); ++layer) {
      EXPECT_EQ(layers[layer].anchor, anchor) << layer;
    }
  }
  EXPECT_EQ(layers[1].reason, "first sparse layer");
  EXPECT_EQ(layers[2].reason, "low similarity: 55.35 % to layer 1");
  for (const int32_t layer : {6, 10, 14}) EXPECT_EQ(layers[layer].reason, "distance");
  EXPECT_EQ(layers[15].similarity, 0.76);
  EXPECT_EQ(layers[15].reason, "");
}

TEST(Greedy, TakesTheMostSimilarSourceAndTheNearestOfEqual) {
  Similarity similarity(4, 1);
  similarity.at(1, 2, 0, 0) = 0.1;
  similarity.at(1, 3, 0, 0) = 0.9;
  similarity.at(2, 3, 0, 0) = 0.8;
  EXPECT_EQ(greedy_schedule(similarity, {}, {})[3].anchor, 1);
  similarity.at(2, 3, 0, 0) = 0.9;
  EXPECT_EQ(greedy_schedule(similarity, {}, {})[3].anchor, 2);
}

TEST(Greedy, ThresholdItselfSuffices) {
  Similarity similarity(3, 1);
  similarity.at(1, 2, 0, 0) = 0.65;
  EXPECT_EQ(greedy_schedule(similarity, {}, {})[2].role, Role::kReuse);
  similarity.at(1, 2, 0, 0) = std::nextafter(0.65, 0.0);
  EXPECT_EQ(greedy_schedule(similarity, {}, {})[2].role, Role::kAnchor);
}

TEST(Greedy, DistanceLimitsTheReuseLayersOfAnAnchor) {
  Similarity similarity(12, 1);
  for (int32_t a = 0; a < 12; ++a) {
    for (int32_t b = a + 1; b < 12; ++b) similarity.at(a, b, 0, 0) = 1;
  }
  for (int32_t distance = 1; distance <= 5; ++distance) {
    const auto layers = greedy_schedule(similarity, {.max_reuse_dist = distance}, {});
    for (int32_t layer = 1; layer < 12; ++layer) {
      const Role expected = (layer - 1) % distance == 0 ? Role::kAnchor : Role::kReuse;
      EXPECT_EQ(layers[layer].role, expected) << distance << " " << layer;
    }
  }
}

TEST(Greedy, DenseLayersServe) {
  Similarity similarity(6, 1);
  similarity.at(1, 2, 0, 0) = 0.7;
  similarity.at(4, 5, 0, 0) = 0.8;
  const auto layers = greedy_schedule(similarity, {.max_reuse_dist = 4}, {1, 4});
  EXPECT_EQ(layers[1].role, Role::kDense);
  EXPECT_EQ(layers[2].anchor, 1);
  EXPECT_THAT(layers[3].reason, StartsWith("low similarity"));
  EXPECT_EQ(layers[4].role, Role::kDense);
  EXPECT_EQ(layers[5].anchor, 4);
}

TEST(Greedy, HeadMapComesFromTheAnchor) {
  Similarity similarity(3, 2);
  similarity.at(1, 2, 0, 1) = 0.9;
  similarity.at(1, 2, 1, 0) = 0.7;
  const auto layers = greedy_schedule(similarity, {}, {});
  EXPECT_THAT(layers[2].head_map, ElementsAre(1, 0));
  EXPECT_DOUBLE_EQ(layers[2].similarity, 0.8);
}

}  // namespace
}  // namespace kascade
