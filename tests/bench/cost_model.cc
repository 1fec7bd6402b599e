#include "tests/bench/cost_model.h"

#include <cmath>
#include <utility>

namespace kascade::bench {

std::optional<CostModel> fit_costs(const std::vector<MeasuredStep>& steps) {
  StepCost cost;
  for (const MeasuredStep& step : steps) {
    if (step.fitted) cost.observe(step.features, step.seconds);
  }
  CostModel model{.costs = cost.costs()};
  std::vector<double> errors;
  for (const MeasuredStep& step : steps) {
    const auto predicted = cost.predict(step.features);
    if (step.fitted || !predicted) continue;
    model.judged.push_back({step.name, step.seconds, *predicted});
    errors.push_back(std::abs(model.judged.back().relative_error()));
  }
  if (errors.empty()) return std::nullopt;
  model.absolute_error = summarize(std::move(errors));
  return model;
}

}  // namespace kascade::bench
