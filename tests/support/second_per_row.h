// A cost model that predicts one second for each row of a step.
#ifndef KASCADE_TESTS_SUPPORT_SECOND_PER_ROW_H_
#define KASCADE_TESTS_SUPPORT_SECOND_PER_ROW_H_

#include <optional>

#include "engine/scheduler/scheduler.h"

namespace kascade {

class SecondPerRow final : public StepTimePredictor {
 public:
  StepFeatures features(const Sequence& sequence, int32_t begin, int32_t end) const override {
    return {.rows = 1.0 * (end - begin) * sequence.spec.branches};
  }
  std::optional<double> seconds(const StepFeatures& step) const override {
    return known ? std::optional<double>(step.rows) : std::nullopt;
  }

  bool known = true;  // false simulates a model that has learned nothing yet
};

}  // namespace kascade

#endif  // KASCADE_TESTS_SUPPORT_SECOND_PER_ROW_H_
