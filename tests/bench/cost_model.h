// Predicts how long a step takes from what it has to do: a sum of a few amounts with coefficients
// fitted to measured steps. Pure.
#ifndef KASCADE_TESTS_BENCH_COST_MODEL_H_
#define KASCADE_TESTS_BENCH_COST_MODEL_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tests/bench/statistics.h"
#include "tests/bench/work.h"

namespace kascade::bench {

struct MeasuredStep {
  std::string name{};
  StepWork work{};
  int32_t rows = 0;
  bool row_rule = false;
  double seconds = 0;
  bool fitted = false;  // the model is fitted to it; else judged by it
};

// What a step's time is a sum of. Matrices cost what the slower of computing and reading them does;
// a key costs less by the tile rule, where rows share it, than by the row rule.
inline constexpr size_t kCosts = 7;
inline constexpr std::string_view kCostNames[kCosts] = {
    "per step, s",
    "matrices: per second of their floor",
    "attention, tile rule: s per TFLOP",
    "attention, row rule: s per TFLOP",
    "scoring, tile rule: s per TFLOP",
    "scoring, row rule: s per TFLOP",
    "per row, s",
};
std::vector<double> costs_of(const MeasuredStep& step, const Speeds& speeds);

struct JudgedStep {
  std::string name{};
  double measured = 0;  // seconds
  double predicted = 0;
  double relative_error() const { return predicted / measured - 1; }
};

struct CostModel {
  std::vector<double> coefficients{};  // [kCosts]
  std::vector<JudgedStep> judged{};    // steps that the fit has not seen
  Summary absolute_error{};            // of the judged, relative
};

// At least one step of either kind.
CostModel fit_costs(const std::vector<MeasuredStep>& steps, const Speeds& speeds);

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_COST_MODEL_H_
