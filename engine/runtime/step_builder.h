// From the scheduler's plan to the step that the transformer runs.
#ifndef KASCADE_ENGINE_RUNTIME_STEP_BUILDER_H_
#define KASCADE_ENGINE_RUNTIME_STEP_BUILDER_H_

#include <memory>
#include <vector>

#include "engine/model/transformer.h"
#include "engine/runtime/batch_builder.h"
#include "engine/scheduler/scheduler.h"

namespace kascade {

// The slices of a step in batch order: those of one attention policy are neighbours.
struct StepLayout {
  std::vector<PlannedSlice> slices{};
  BuiltBatch built{};  // its batch has moved to `step`
  Step step{};
};

class StepBuilder {
 public:
  explicit StepBuilder(int32_t block_size) : block_size_(block_size) {}

  // `plan` must outlive the result; so must the sequences and, until the next call, this object.
  StepLayout build(const StepPlan& plan, const Scheduler& scheduler);

 private:
  void add_groups(StepLayout& layout);

  int32_t block_size_;
  std::vector<std::unique_ptr<PolicyState>> states_;  // [groups of a step], used again
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_STEP_BUILDER_H_
