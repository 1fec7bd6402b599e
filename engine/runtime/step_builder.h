// Turns the scheduler's StepPlan into the Step that the transformer runs.
#ifndef KASCADE_ENGINE_RUNTIME_STEP_BUILDER_H_
#define KASCADE_ENGINE_RUNTIME_STEP_BUILDER_H_

#include <memory>
#include <vector>

#include "engine/model/transformer.h"
#include "engine/runtime/batch_builder.h"
#include "engine/scheduler/scheduler.h"

namespace kascade {

// The slices of a step in the order of the batch, in which slices of one attention policy are
// neighbours.
struct StepLayout {
  std::vector<PlannedSlice> slices{};
  BuiltBatch built{};  // without its batch, which is in `step`
  Step step{};
};

class StepBuilder {
 public:
  explicit StepBuilder(int32_t block_size) : block_size_(block_size) {}

  // The plan and the sequences must outlive the result; this object must too, and the result is
  // valid until the next call.
  StepLayout build(const StepPlan& plan, const Scheduler& scheduler);

 private:
  void add_groups(StepLayout& layout);

  int32_t block_size_;
  // [attention groups], reused from step to step
  std::vector<std::unique_ptr<PolicyState>> states_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_STEP_BUILDER_H_
