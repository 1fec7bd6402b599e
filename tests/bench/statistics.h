// Numbers about samples: medians, and the fit of times to sums of known amounts. Pure.
#ifndef KASCADE_TESTS_BENCH_STATISTICS_H_
#define KASCADE_TESTS_BENCH_STATISTICS_H_

#include <vector>

namespace kascade::bench {

struct Summary {
  double median = 0;  // of an even number: the mean of the middle two
  double least = 0;
  double most = 0;
};

// All zero without values.
Summary summarize(std::vector<double> values);

// Coefficients c ≥ 0, one per feature, that make Σ ((features[i] · c − targets[i]) / targets[i])²
// small: the relative errors, so that a step of 50 ms counts as much as one of 5 s. A feature that
// would get a negative coefficient, or says nothing that the others do not, is left out (c = 0).
// Targets > 0; all rows of equal length.
std::vector<double> fit_nonnegative(const std::vector<std::vector<double>>& features,
                                    const std::vector<double>& targets);

double predict(const std::vector<double>& features, const std::vector<double>& coefficients);

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_STATISTICS_H_
