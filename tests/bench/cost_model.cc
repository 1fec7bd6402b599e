#include "tests/bench/cost_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/check.h"

namespace kascade::bench {

std::vector<double> costs_of(const MeasuredStep& step, const Speeds& speeds) {
  constexpr double kTera = 1e12;
  const double tile = step.row_rule ? 0 : 1 / kTera;
  const double row = step.row_rule ? 1 / kTera : 0;
  const double matrices = std::max((step.work.matmul_flops + step.work.head_flops) / speeds.matmul,
                                   step.work.weight_bytes / speeds.read);
  return {1,
          matrices,
          step.work.attention_flops * tile,
          step.work.attention_flops * row,
          step.work.scoring_flops * tile,
          step.work.scoring_flops * row,
          static_cast<double>(step.rows)};
}

CostModel fit_costs(const std::vector<MeasuredStep>& steps, const Speeds& speeds) {
  std::vector<std::vector<double>> costs;
  std::vector<double> seconds;
  for (const MeasuredStep& step : steps) {
    if (!step.fitted) continue;
    costs.push_back(costs_of(step, speeds));
    seconds.push_back(step.seconds);
  }
  CostModel model{.coefficients = fit_nonnegative(costs, seconds)};
  std::vector<double> errors;
  for (const MeasuredStep& step : steps) {
    if (step.fitted) continue;
    const double predicted = predict(costs_of(step, speeds), model.coefficients);
    model.judged.push_back({step.name, step.seconds, predicted});
    errors.push_back(std::abs(model.judged.back().relative_error()));
  }
  KASCADE_CHECK(!errors.empty());
  model.absolute_error = summarize(std::move(errors));
  return model;
}

}  // namespace kascade::bench
