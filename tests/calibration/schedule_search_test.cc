// Tests the search for the cheapest schedule that passes the quality check against trying all
// schedules.
#include "engine/calibration/schedule_search.h"

#include <algorithm>
#include <optional>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

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

TEST(PlanSearchTest, FindsTheFewestSelectingLayers) {
  for (int32_t need = 1; need <= 15; ++need) {
    const Found found = search({need}, 14);
    EXPECT_EQ(found.best, cheapest_of({need}, 14)) << need;
    EXPECT_LE(found.asked, 5u);
  }
}

TEST(PlanSearchTest, TakesMoreDenseLayersOnlyWhereThatReadsLess) {
  EXPECT_EQ(search({11, 10, 9}, 14).best, (ScheduleSize{11, 0}));
  // 10 beside one dense layer reads no less than 11; with two dense ones fewer need to select.
  EXPECT_EQ(search({11, 10, 3}, 14).best, (ScheduleSize{3, 2}));
  // After two numbers that do not pay, no third is tried.
  EXPECT_EQ(search({11, 10, 8, 1}, 14).best, (ScheduleSize{11, 0}));
  EXPECT_EQ(search({13, 12, 8, 7, 3}, 14).best, (ScheduleSize{3, 4}));
  EXPECT_EQ(search({11, 8, 5, 4}, 14).best, (ScheduleSize{5, 2}));
  EXPECT_EQ(search({15, 14, 12, 9, 8}, 14).best, (ScheduleSize{9, 3}));
  EXPECT_EQ(search({15, 14, 13}, 14).best, std::nullopt);
  EXPECT_EQ(search({2, 1, 1}, 14).best, (ScheduleSize{2, 0}));
}

// Where each dense layer more saves no more selecting ones than the one before.
TEST(PlanSearchTest, AgreesWithTryingAll) {
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

TEST(PlanSearchTest, ErrorsEndIt) {
  int32_t asked = 0;
  const auto result = cheapest_passing_size(8, 4, [&](ScheduleSize) -> absl::StatusOr<bool> {
    if (++asked == 2) return absl::CancelledError("stopped");
    return true;
  });
  EXPECT_TRUE(absl::IsCancelled(result.status()));
  EXPECT_EQ(asked, 2);
}

}  // namespace
}  // namespace kascade
