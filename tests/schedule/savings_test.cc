// What is said of schedules that save nothing or little.
#include <string>

#include "engine/schedule/schedule.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int32_t kContext = 4096;
constexpr char kNothing[] = "the schedule saves nothing: ";

// Layer 0 dense, layer 1 an anchor, layer 2 reuses it.
Schedule reusing(Family family) {
  Schedule schedule;
  schedule.selection.family = family;
  schedule.layers = {{}, {.role = Role::kAnchor, .anchor = 1}, {.role = Role::kReuse, .anchor = 1}};
  return schedule;
}

Schedule without_reuse(Family family) {
  Schedule schedule = reusing(family);
  schedule.layers[2] = {.role = Role::kAnchor, .anchor = 2};
  return schedule;
}

TEST(SavingsWarning, IsEmptyForASparseSchedule) {
  EXPECT_EQ(savings_warning(reusing(Family::kKascade), kContext), "");
  EXPECT_EQ(savings_warning(reusing(Family::kTile), kContext), "");
  Schedule checked = reusing(Family::kTile);
  checked.quality.tokens = 1000;
  checked.quality.keys_attended_ratio = 0.99;
  EXPECT_EQ(savings_warning(checked, kContext), "");
}

TEST(SavingsWarning, AnchorsOfTheTileFamilyAttendToAllKeys) {
  EXPECT_THAT(savings_warning(without_reuse(Family::kTile), kContext), StartsWith(kNothing));
}

TEST(SavingsWarning, AnchorsOfTheKascadeFamilySaveTheValues) {
  EXPECT_THAT(savings_warning(without_reuse(Family::kKascade), kContext),
              StartsWith("the schedule saves little: no layer reuses"));
  Schedule by_copy = without_reuse(Family::kKascade);
  by_copy.selection.int4_keys = true;  // and the keys, too
  EXPECT_EQ(savings_warning(by_copy, kContext), "");
}

TEST(SavingsWarning, DenseLayersSaveNothing) {
  Schedule schedule;
  schedule.layers.resize(3);
  EXPECT_THAT(savings_warning(schedule, kContext), StartsWith(kNothing));
}

TEST(SavingsWarning, NorDoesAMassOfAllKeys) {
  Schedule schedule = reusing(Family::kKascade);
  schedule.selection.mass = 1;
  EXPECT_THAT(savings_warning(schedule, kContext), StartsWith(kNothing));
  schedule.selection.max_ratio = 0.5;
  EXPECT_EQ(savings_warning(schedule, kContext), "");
  schedule.selection = {.ratio = 1, .mass = 0.9};
  EXPECT_EQ(savings_warning(schedule, kContext), "");
}

TEST(SavingsWarning, NorDoesABudgetOfAllKeys) {
  Schedule tiles = reusing(Family::kTile);
  tiles.selection.query_tile = 16;
  tiles.selection.top_k = 255;
  EXPECT_EQ(savings_warning(tiles, kContext), "");
  tiles.selection.top_k = 256;
  EXPECT_THAT(savings_warning(tiles, kContext), HasSubstr("all keys of the context of 4096"));
  Schedule keys = reusing(Family::kKascade);
  keys.selection.min_keys = kContext;
  EXPECT_THAT(savings_warning(keys, kContext), StartsWith(kNothing));
  keys.selection.min_keys = 128;
  keys.selection.ratio = 1;
  EXPECT_THAT(savings_warning(keys, kContext), StartsWith(kNothing));
}

TEST(SavingsWarning, TheQualityCheckHasCountedTheKeys) {
  Schedule schedule = reusing(Family::kKascade);
  schedule.quality.tokens = 1000;
  schedule.quality.keys_attended_ratio = 1;
  EXPECT_THAT(savings_warning(schedule, kContext), HasSubstr("of its quality check"));
}

}  // namespace
}  // namespace kascade
