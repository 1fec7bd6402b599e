#include "engine/scheduler/scheduler.h"

#include "gtest/gtest.h"

namespace kascade {
namespace {

TEST(Scheduler, GeneratesAfterPrompt) {
  BlockAllocator blocks(8, 16);
  Scheduler scheduler({.max_batch_tokens = 288}, blocks);
  SequenceSpec spec{
      .tokens = std::vector<Token>(20, 1), .generates = true, .max_tokens = 22, .prefill_end = 20};
  ASSERT_TRUE(scheduler.admit(1, spec, absl::UnixEpoch()).ok());
  StepPlan plan = scheduler.plan(absl::UnixEpoch());
  ASSERT_EQ(plan.slices.size(), 1u);
  EXPECT_EQ(plan.slices[0].count, 20);
  EXPECT_EQ(plan.slices[0].first_logit, 19);
  const Outcome outcome{.seq = 1, .generated = 7};
  EXPECT_TRUE(scheduler.commit(plan, {&outcome, 1}).empty());
  plan = scheduler.plan(absl::UnixEpoch());
  ASSERT_EQ(plan.slices.size(), 1u);
  EXPECT_EQ(plan.slices[0].count, 1);
  EXPECT_EQ(scheduler.commit(plan, {&outcome, 1}), std::vector<SeqId>{1});
  EXPECT_EQ(blocks.free_blocks(), 8);
}

}  // namespace
}  // namespace kascade
