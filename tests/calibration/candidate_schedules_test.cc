// What the options of a calibration say about its candidate schedules.
#include "engine/calibration/candidate_schedules.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using ::testing::ElementsAre;

TEST(CandidateSchedulesTest, OnlyAnAutomaticSearchOverSingleKeysNeedsTheCostOfSelecting) {
  const CalibrationOptions automatic{};
  EXPECT_TRUE(measures_selection_loss(automatic));
  CalibrationOptions options = automatic;
  options.anchors = 4;
  EXPECT_FALSE(measures_selection_loss(options));
  EXPECT_TRUE(uses_measured_costs(options));
  options = automatic;
  options.selection.family = Family::kTile;
  EXPECT_FALSE(measures_selection_loss(options));
  EXPECT_TRUE(uses_measured_costs(options));
  options = automatic;
  options.layer_cost = LayerCost::kImportance;
  EXPECT_FALSE(measures_selection_loss(options));
  EXPECT_FALSE(uses_measured_costs(options));
  EXPECT_TRUE(is_automatic(options));
  options = automatic;
  options.planner = Planner::kGreedy;
  EXPECT_FALSE(measures_selection_loss(options));
  EXPECT_FALSE(uses_measured_costs(options));
  EXPECT_FALSE(is_automatic(options));
}

TEST(CandidateSchedulesTest, EachPlannerHasItsSimilarity) {
  CalibrationOptions options;
  EXPECT_EQ(similarity_kind(options), SimilarityKind::kRecalledMass);
  options.published_head_map_slip = true;
  EXPECT_EQ(similarity_kind(options), SimilarityKind::kRecalledMassWithSlip);
  options.planner = Planner::kGreedy;
  EXPECT_EQ(similarity_kind(options), SimilarityKind::kJaccard);
}

TEST(CandidateSchedulesTest, LayersOfLittleRecallStayDenseIfAskedFor) {
  Similarity similarity(4, 1);
  similarity.self_recall = {0.1, 0.59, 0.6, 0.2};
  CalibrationOptions options{.dense_layers = {2}};
  EXPECT_THAT(dense_layers(options, similarity), ElementsAre(2));
  options.auto_dense_layers = true;
  EXPECT_THAT(dense_layers(options, similarity), ElementsAre(2, 1, 3));
  options.min_recall = 0;
  EXPECT_THAT(dense_layers(options, similarity), ElementsAre(2));
}

}  // namespace
}  // namespace kascade
