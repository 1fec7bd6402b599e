// Turns a StepPlan into the index arrays of a Batch. This is index arithmetic only and touches
// neither the cache's memory nor a device. Called by the engine once per step.
#ifndef KASCADE_ENGINE_RUNTIME_BATCH_BUILDER_H_
#define KASCADE_ENGINE_RUNTIME_BATCH_BUILDER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/attention/policy.h"
#include "engine/backend/batch.h"
#include "engine/scheduler/scheduler.h"

namespace kascade {

// One slice, with the sequence and the policy that determine its rows and tiles.
struct PlannedSlice {
  const Slice* slice = nullptr;
  const Sequence* sequence = nullptr;
  const AttentionPolicy* policy = nullptr;
};

// The logits of one slice: indices [first, first + count) of Batch::logit_rows belong to the
// positions from first_position on.
struct LogitSpan {
  int32_t first = 0;
  int32_t count = 0;
  int32_t first_position = 0;
};

struct BuiltBatch {
  Batch batch{};
  std::vector<TileRange> tiles{};   // [slices] in the order given
  std::vector<LogitSpan> logits{};  // [slices]
};

// Calls `tile` for each tile of rows [begin, end) of a sequence, in order.
void for_each_tile(const AttentionPolicy& policy, int32_t prefill_end, int32_t begin, int32_t end,
                   absl::FunctionRef<void(const TileSpan&)> tile);

// Builds the batch with the rows of the slices in the given order. Rows below the sequence's
// prefill_end form tiles at multiples of the policy's query tile. Later rows form tiles of one row
// each if tiles share a selection (Tiling::shares_selection).
BuiltBatch build_batch(std::span<const PlannedSlice> slices, int32_t block_size);

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_BATCH_BUILDER_H_
