// Tests the engine's loop with a simulated clock: how the durations of earlier steps affect later
// ones.
#include "engine/runtime/step_loop.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/model/checkpoint.h"
#include "engine/model/transformer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Le;

class StepLoopTest : public ::testing::Test {
 protected:
  static constexpr int32_t kBlockSize = 32, kBlocks = 64, kTile = 32;

  explicit StepLoopTest() { write_tiny_model({.context = 1024}, dir_.path()); }

  void open(double max_step_seconds) {
    const ModelConfig config = *load_config(dir_.path());
    Checkpoint checkpoint = *open_checkpoint(dir_.path(), config);
    backend_ = *open_backend({.name = "reference", .checkpoint_dtype = checkpoint.dtype});
    cache_ =
        std::make_unique<KvCache>(KvCacheShape{config.layers, config.kv_heads, config.head_dim,
                                               kBlocks, kBlockSize, backend_->precision().cache},
                                  *backend_);
    blocks_ = std::make_unique<BlockAllocator>(kBlocks, kBlockSize);
    transformer_ =
        std::make_unique<Transformer>(config, std::move(checkpoint), *backend_, /*max_rows=*/512);
    const SchedulerLimits limits{.max_batch_tokens = 512,
                                 .max_sequences = 4,
                                 .context = config.context,
                                 .max_step_seconds = max_step_seconds};
    loop_ = std::make_unique<StepLoop>(limits, int64_t{1} << 20, *transformer_, *cache_, *blocks_,
                                       [this](const EngineStats&, const QueueChanges& changes) {
                                         left_ += changes.started.size() + changes.gone.size();
                                       });
  }

  // Texts are scored in the background if no new tokens are asked for.
  void admit(SeqId id, int32_t prompt, int32_t new_tokens, EventSink sink) {
    QueuedRequest queued{.id = id};
    queued.request.tokens = random_tokens(prompt, 256, id);
    if (new_tokens > 0) {
      queued.request.task = Generate{.sampling = {.temperature = 0}, .max_new_tokens = new_tokens};
    } else {
      // Few rows with logits: the forecast cannot tell what they cost from what a step costs, since
      // every step before had one.
      queued.request.task = Score{.first_scored = prompt - 10};
      queued.entry.priority = Priority::kBackground;
    }
    queued.sink = std::move(sink);
    ASSERT_TRUE(loop_->admit(std::move(queued), now_).ok());
  }

  // Every step takes a second.
  void step() {
    ASSERT_TRUE(loop_->step([this] { return now_ += absl::Seconds(1); }));
  }

  // How many tokens of a prompt of 300 each step computes while another sequence decodes, which it
  // has done for so long that the time of a step is known.
  std::vector<int32_t> chunks() {
    admit(1, 10, 200, [](const Event&) {});
    for (int i = 0; i < 40; ++i) step();
    std::vector<int32_t> sizes;
    int32_t before = 0;
    admit(2, 300, 1, [&](const Event& event) {
      sizes.push_back(event.computed_tokens - before);
      before = event.computed_tokens;
    });
    for (int i = 0; i < 20 && before < 300; ++i) step();
    EXPECT_EQ(before, 300);
    return sizes;
  }

  TempDir dir_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<BlockAllocator> blocks_;
  std::unique_ptr<Transformer> transformer_;
  std::unique_ptr<StepLoop> loop_;
  absl::Time now_ = absl::UnixEpoch();
  size_t left_ = 0;  // requests that do not wait any more
};

TEST_F(StepLoopTest, WithoutALimitAPromptIsOneChunk) {
  open(0);
  EXPECT_THAT(chunks(), ElementsAre(300));
}

TEST_F(StepLoopTest, StepsThatTakeTooLongMakeChunksOfATile) {
  open(0.1);
  const std::vector<int32_t> sizes = chunks();
  EXPECT_THAT(sizes, Each(Le(kTile)));
  EXPECT_GE(sizes.size(), 9u);
}

// A step takes a second whatever is in it, so the rows alone limit background work: a quarter of
// 512.
TEST_F(StepLoopTest, BackgroundWorkBesideADecodingSequenceHasItsShare) {
  open(0);
  SeqId id = 10;
  for (const int32_t prompt : {10, 40, 100, 200, 300, 20, 60, 150, 250, 90, 350, 30}) {
    admit(++id, prompt, 1, [](const Event&) {});
    step();
  }
  std::vector<int32_t> sizes;
  int32_t before = 0;
  admit(1, 10, 20, [](const Event&) {});
  step();
  admit(2, 1000, 0, [&](const Event& event) {
    sizes.push_back(event.computed_tokens - before);
    before = event.computed_tokens;
  });
  for (int i = 0; i < 19; ++i) step();
  EXPECT_THAT(sizes, Each(Le(128)));
  EXPECT_THAT(sizes, ::testing::Contains(128));
}

TEST_F(StepLoopTest, ToldWhoNoLongerWaits) {
  open(0);
  admit(1, 600, 2, [](const Event&) {});
  admit(2, 10, 2, [](const Event&) {});
  admit(3, 10, 2, [](const Event&) {});
  left_ = 0;
  step();
  EXPECT_EQ(left_, 1u) << "512 rows of the first prompt leave no row";
  loop_->end(3, FinishReason::kCancelled, absl::CancelledError("test"));
  EXPECT_EQ(left_, 2u) << "cancelled while it waited";
  step();
  EXPECT_EQ(left_, 3u);
  loop_->end(2, FinishReason::kCancelled, absl::CancelledError("test"));
  EXPECT_EQ(left_, 3u) << "it had left before";
}

TEST_F(StepLoopTest, WithTimeEnoughAPromptIsOneChunk) {
  open(3600);
  EXPECT_THAT(chunks(), ElementsAre(300));
}

}  // namespace
}  // namespace kascade::testing
