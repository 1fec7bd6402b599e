// Numbers about samples. Pure.
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

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_STATISTICS_H_
