// The search for the cheapest schedule that passes, against trying all sizes.
#include "engine/calibration/schedule_search.h"

#include <algorithm>
#include <optional>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using ::testing::ElementsAre;

// need[d]: the fewest selecting layers that pass beside d more dense ones.
std::optional<ScheduleSize> cheapest_of(const std::vector<int32_t>& need, int32_t most) {
  std::optional<ScheduleSize> best;
  for (int32_t dense = 0; dense < static_cast<int32_t>(need.size()); ++dense) {
    const ScheduleSize size{need[static_cast<size_t>(dense)], dense};
    if (size.selecting > most - dense) continue;
    if (!best || size.cost() < best->cost()) best = size;
  }
  return best;
}

struct Found {
  std::optional<ScheduleSize> best{}, last_passed{};
  size_t asked = 0;
};

Found search(const std::vector<int32_t>& need, int32_t most) {
  Found found;
  const auto best = cheapest_passing_size(
      most, static_cast<int32_t>(need.size()) - 1, [&](ScheduleSize size) -> absl::StatusOr<bool> {
        EXPECT_GE(size.selecting, 1);
        EXPECT_LE(size.selecting + size.more_dense, most);
        ++found.asked;
        const bool passes = size.selecting >= need[static_cast<size_t>(size.more_dense)];
        if (passes) found.last_passed = size;
        return passes;
      });
  EXPECT_TRUE(best.ok());
  if (best.ok()) found.best = *best;
  return found;
}

TEST(ScheduleSearchTest, FindsTheFewestSelectingLayers) {
  for (int32_t need = 1; need <= 15; ++need) {
    const Found found = search({need}, 14);
    EXPECT_EQ(found.best, cheapest_of({need}, 14)) << need;
    EXPECT_LE(found.asked, 5u);
  }
}

TEST(ScheduleSearchTest, TakesMoreDenseLayersOnlyWhereThatReadsLess) {
  EXPECT_EQ(search({11, 10, 9}, 14).best, (ScheduleSize{11, 0}));
  // 10 beside one dense layer reads no less than 11; with two dense ones fewer need to select.
  EXPECT_EQ(search({11, 10, 3}, 14).best, (ScheduleSize{3, 2}));
  // After two numbers of dense layers that bring nothing, no third is tried.
  EXPECT_EQ(search({11, 10, 8, 1}, 14).best, (ScheduleSize{11, 0}));
  EXPECT_EQ(search({13, 12, 8, 7, 3}, 14).best, (ScheduleSize{3, 4}));
  EXPECT_EQ(search({11, 8, 5, 4}, 14).best, (ScheduleSize{5, 2}));
  EXPECT_EQ(search({15, 14, 12, 9, 8}, 14).best, (ScheduleSize{9, 3}));
  EXPECT_EQ(search({15, 14, 13}, 14).best, std::nullopt);
  EXPECT_EQ(search({2, 1, 1}, 14).best, (ScheduleSize{2, 0}));
}

// Where each further dense layer saves at most as many selecting layers as the one before it.
TEST(ScheduleSearchTest, AgreesWithTryingAll) {
  std::mt19937 random(7);
  const auto below = [&](int32_t n) {
    return static_cast<int32_t>(random() % static_cast<uint32_t>(n));
  };
  for (int32_t i = 0; i < 2000; ++i) {
    const int32_t most = 2 + below(40);
    std::vector<int32_t> need = {1 + below(most + 6)};
    int32_t saved = below(12);
    while (static_cast<int32_t>(need.size()) <= most / 2) {
      const int32_t last = need.back();
      need.push_back(std::max(1, last - saved));
      saved = last - need.back();
      if (saved > 0) saved -= below(2);
    }
    const Found found = search(need, most);
    const auto expected = cheapest_of(need, most);
    ASSERT_EQ(found.best.has_value(), expected.has_value());
    EXPECT_EQ(found.best, found.last_passed);
    if (expected) {
      EXPECT_EQ(found.best.value_or(ScheduleSize{}).cost(), expected->cost());
    }
  }
}

TEST(ScheduleSearchTest, ErrorsEndIt) {
  int32_t asked = 0;
  const auto result = cheapest_passing_size(8, 4, [&](ScheduleSize) -> absl::StatusOr<bool> {
    if (++asked == 2) return absl::CancelledError("stopped");
    return true;
  });
  EXPECT_TRUE(absl::IsCancelled(result.status()));
  EXPECT_EQ(asked, 2);
}

// Eight layers, of which layer 2 stays dense. Selecting costs most in layer 5, then in layer 3.
Similarity eight_layers() {
  Similarity similarity(8, 1);
  similarity.select_cost = {0, 0.1, 0, 0.3, 0.1, 0.4, 0.1, 0.2};
  return similarity;
}

std::vector<int32_t> layers_of(const std::vector<LayerSchedule>& schedule, Role role) {
  std::vector<int32_t> layers;
  for (int32_t layer = 1; layer < std::ssize(schedule); ++layer) {
    if (schedule[layer].role == role) layers.push_back(layer);
  }
  return layers;
}

TEST(ScheduleSearchTest, LayersBecomeDenseInTheOrderOfWhatTheirSelectingCosts) {
  std::vector<std::vector<int32_t>> dense;
  const absl::Status searched =
      search_schedules(eight_layers(), {2}, [&](const std::vector<LayerSchedule>& schedule) {
        const auto layers = layers_of(schedule, Role::kDense);
        if (dense.empty() || dense.back() != layers) dense.push_back(layers);
        return absl::StatusOr<bool>(false);
      });
  ASSERT_TRUE(searched.ok());
  // At most half of the six layers that may become dense do; equal costs keep their order.
  EXPECT_THAT(dense, ElementsAre(ElementsAre(2), ElementsAre(2, 5), ElementsAre(2, 3, 5),
                                 ElementsAre(2, 3, 5, 7)));
}

TEST(ScheduleSearchTest, MoreLayersAreDenseWhereThatPasses) {
  std::vector<LayerSchedule> last;
  const absl::Status searched =
      search_schedules(eight_layers(), {2}, [&](const std::vector<LayerSchedule>& schedule) {
        const bool passes = layers_of(schedule, Role::kDense).size() == 3;
        if (passes) last = schedule;
        return absl::StatusOr<bool>(passes);
      });
  ASSERT_TRUE(searched.ok());
  EXPECT_THAT(layers_of(last, Role::kDense), ElementsAre(2, 3, 5));
  EXPECT_TRUE(layers_of(last, Role::kAnchor).empty());  // layer 0 alone selects beside them
}

TEST(ScheduleSearchTest, NoMoreLayersAreDenseWhereSelectingWasNotMeasured) {
  Similarity similarity = eight_layers();
  similarity.select_cost.clear();
  const absl::Status searched =
      search_schedules(similarity, {}, [&](const std::vector<LayerSchedule>& schedule) {
        EXPECT_TRUE(layers_of(schedule, Role::kDense).empty());
        return absl::StatusOr<bool>(false);
      });
  EXPECT_TRUE(searched.ok());
}

}  // namespace
}  // namespace kascade
