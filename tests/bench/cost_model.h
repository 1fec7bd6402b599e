// How well the engine's own estimate (engine/scheduler/step_cost.h) predicts steps that it has not
// seen. Pure.
#ifndef KASCADE_TESTS_BENCH_COST_MODEL_H_
#define KASCADE_TESTS_BENCH_COST_MODEL_H_

#include <optional>
#include <string>
#include <vector>

#include "engine/scheduler/step_cost.h"
#include "tests/bench/statistics.h"

namespace kascade::bench {

struct MeasuredStep {
  std::string name{};
  StepFeatures features{};
  double seconds = 0;
  bool fitted = false;  // the model is fitted to it; else judged by it
};

struct JudgedStep {
  std::string name{};
  double measured = 0;  // seconds
  double predicted = 0;
  double relative_error() const { return predicted / measured - 1; }
};

struct CostModel {
  StepCosts costs{};
  std::vector<JudgedStep> judged{};  // steps that the fit has not seen
  Summary absolute_error{};          // of the judged, relative
};

// Nothing with too few steps of either kind.
std::optional<CostModel> fit_costs(const std::vector<MeasuredStep>& steps);

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_COST_MODEL_H_
