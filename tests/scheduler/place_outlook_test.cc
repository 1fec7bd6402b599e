// Tests when places and blocks are predicted to become free.
#include "engine/scheduler/place_outlook.h"

#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace kascade {
namespace {

constexpr SchedulerLimits kLimits{.max_batch_tokens = 512, .max_sequences = 4, .context = 4096};

class PlaceOutlookTest : public ::testing::Test {
 protected:
  void admit(SeqId id, int32_t prompt, int32_t new_tokens,
             Priority priority = Priority::kInteractive) {
    ASSERT_TRUE(scheduler_
                    .admit(id, {.tokens = std::vector<Token>(prompt, 1),
                                .generates = true,
                                .max_tokens = prompt + new_tokens,
                                .prefill_end = prompt,
                                .priority = priority})
                    .ok());
  }

  // Every sequence whose prompt is computed generates a token.
  void step() {
    const StepPlan plan = scheduler_.plan(absl::UnixEpoch());
    std::vector<Outcome> outcomes;
    for (const Slice& slice : plan.slices) {
      const bool generates = scheduler_.find(slice.seq)->remaining() == slice.count;
      if (generates) outcomes.push_back({.seq = slice.seq, .generated = 1});
    }
    scheduler_.commit(plan, outcomes);
  }

  PlaceOutlook outlook(double length_share = 1) {
    return place_outlook(scheduler_, kLimits, blocks_, length_share);
  }

  BlockAllocator blocks_{100, 16};
  Scheduler scheduler_{kLimits, blocks_};
};

TEST_F(PlaceOutlookTest, AnIdleEngineHasAllPlacesAndBlocks) {
  EXPECT_EQ(outlook().free_places, 4);
  EXPECT_EQ(outlook().free_blocks, 100);
  EXPECT_EQ(outlook().steps_until_free(4, 100), 0);
}

TEST_F(PlaceOutlookTest, PlacesBecomeFreeInTheOrderOfTheEnds) {
  admit(1, 32, 50);
  admit(2, 16, 10);
  step();
  const PlaceOutlook after = outlook();
  EXPECT_EQ(after.started, 2);
  EXPECT_EQ(after.free_places, 2);
  EXPECT_EQ(after.free_blocks, 97);
  EXPECT_EQ(after.rows_to_feed, 0);
  ASSERT_EQ(after.departures.size(), 2u);
  EXPECT_EQ(after.steps_until_free(2, 97), 0);
  EXPECT_EQ(after.steps_until_free(3, 1), 9) << "one of ten tokens is there";
  EXPECT_EQ(after.steps_until_free(1, 98), 9);
  EXPECT_EQ(after.steps_until_free(4, 1), 49);
  EXPECT_EQ(after.steps_until_free(8, 1), 98) << "eight take two rounds";
  EXPECT_EQ(outlook(/*length_share=*/0.5).steps_until_free(4, 1), 25);
}

TEST_F(PlaceOutlookTest, ThePredictedEndIsThatOfTheScheduler) {
  admit(1, 32, 50);
  step();
  for (double steps = outlook().steps_until_free(4, 1); steps > 0; --steps) {
    EXPECT_FALSE(scheduler_.empty());
    step();
  }
  EXPECT_TRUE(scheduler_.empty());
}

TEST_F(PlaceOutlookTest, PromptsThatHaveBegunAreStillToBeFed) {
  admit(1, 1000, 10);
  admit(2, 100, 10);
  step();
  EXPECT_EQ(outlook().rows_to_feed, 1000 - 512);
  EXPECT_EQ(outlook().prompts_to_feed, 1);
  EXPECT_EQ(outlook().started, 1) << "the other one waits";
}

TEST_F(PlaceOutlookTest, BatchSequencesGiveWay) {
  admit(1, 32, 50, Priority::kBatch);
  step();
  EXPECT_EQ(outlook().started, 0);
  EXPECT_EQ(outlook().free_places, 4);
  EXPECT_EQ(outlook().free_blocks, 100);
}

}  // namespace
}  // namespace kascade
