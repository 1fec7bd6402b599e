// Predicts that every row of a step takes a second.
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

  bool known = true;  // false: as long as nothing was learned
};

}  // namespace kascade

#endif  // KASCADE_TESTS_SUPPORT_SECOND_PER_ROW_H_
