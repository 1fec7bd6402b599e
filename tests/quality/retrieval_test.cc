// When sparse attention answers too few of the questions that dense attention answers.
#include "engine/quality/retrieval.h"

#include "gtest/gtest.h"

namespace kascade {
namespace {

TEST(Retrieval, TheSignTestIsExactAndOneSided) {
  EXPECT_EQ(sign_test_p_value(0, 0), 1);
  EXPECT_DOUBLE_EQ(sign_test_p_value(1, 0), 0.5);
  EXPECT_DOUBLE_EQ(sign_test_p_value(5, 0), 1.0 / 32);
  EXPECT_DOUBLE_EQ(sign_test_p_value(0, 5), 1);
  // Of 7 coins at least 6 heads: 8 of 128 ways.
  EXPECT_NEAR(sign_test_p_value(6, 1), 8.0 / 128, 1e-12);
  EXPECT_NEAR(sign_test_p_value(1000, 1000), 0.5, 0.01);
}

TEST(Retrieval, NothingIsMeasuredWhereDenseAttentionFindsFewerThanHalf) {
  EXPECT_TRUE(is_measurable({.asked = 20, .dense = 10}));
  EXPECT_FALSE(is_measurable({.asked = 20, .dense = 9}));
  EXPECT_FALSE(is_measurable({}));
}

// More than 10 points are too many, however few questions there are, but for a single one.
TEST(Retrieval, TenPointsAreTheMostThatMayBeMissing) {
  EXPECT_TRUE(retrieves_enough({.asked = 20, .dense = 20, .lost = 2}));
  EXPECT_FALSE(retrieves_enough({.asked = 20, .dense = 20, .lost = 3}));
  EXPECT_TRUE(retrieves_enough({.asked = 20, .dense = 15, .lost = 3, .gained = 1}));
  EXPECT_TRUE(retrieves_enough({.asked = 4, .dense = 4, .lost = 1}));
  EXPECT_FALSE(retrieves_enough({.asked = 4, .dense = 4, .lost = 2}));
  EXPECT_TRUE(retrieves_enough({.asked = 4, .dense = 2, .gained = 2}));
}

// From 2 to 10 points the sign test decides.
TEST(Retrieval, FewerPointsAreTooManyIfTheyAreNoChance) {
  EXPECT_TRUE(retrieves_enough({.asked = 100, .dense = 90, .lost = 4}));   // p = 1/16
  EXPECT_FALSE(retrieves_enough({.asked = 100, .dense = 90, .lost = 5}));  // p = 1/32
  EXPECT_TRUE(retrieves_enough({.asked = 100, .dense = 90, .lost = 9, .gained = 4}));
  EXPECT_FALSE(retrieves_enough({.asked = 100, .dense = 90, .lost = 9, .gained = 1}));
  // Significant, but not more than 2 points.
  EXPECT_TRUE(retrieves_enough({.asked = 1000, .dense = 900, .lost = 20}));
  EXPECT_FALSE(retrieves_enough({.asked = 1000, .dense = 900, .lost = 21}));
}

TEST(Retrieval, CountsAddUp) {
  RetrievalCounts counts{.asked = 20, .dense = 18, .lost = 3, .gained = 1};
  counts += {.asked = 10, .dense = 9, .lost = 1};
  EXPECT_EQ(counts.asked, 30);
  EXPECT_EQ(counts.sparse(), 24);
  EXPECT_EQ(counts.missing(), 3);
}

}  // namespace
}  // namespace kascade
