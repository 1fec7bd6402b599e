// Predicts the durations of steps from what the attention policies of their sequences will read,
// and learns from measured steps.
#ifndef KASCADE_ENGINE_RUNTIME_STEP_TIME_H_
#define KASCADE_ENGINE_RUNTIME_STEP_TIME_H_

#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "engine/scheduler/scheduler.h"
#include "engine/scheduler/step_cost.h"

namespace kascade {

class StepTime final : public StepTimePredictor {
 public:
  explicit StepTime(int32_t layers) : layers_(layers) {}

  // The sequence has an ActiveRequest.
  StepFeatures features(const Sequence& sequence, int32_t begin, int32_t end) const override;
  std::optional<double> seconds(const StepFeatures& step) const override;
  // The features of a whole StepPlan of `scheduler`.
  StepFeatures features(const StepPlan& plan, const Scheduler& scheduler) const;
  void observe(const StepFeatures& step, absl::Duration duration);

 private:
  int32_t layers_;
  StepCost cost_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_STEP_TIME_H_
