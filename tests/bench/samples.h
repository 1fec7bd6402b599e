// Repeats a measurement, each time beside short tests of what the machine gives at that moment, and
// sets aside what others disturbed.
#ifndef KASCADE_TESTS_BENCH_SAMPLES_H_
#define KASCADE_TESTS_BENCH_SAMPLES_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "tests/bench/ceilings.h"
#include "tests/bench/timed_backend.h"

namespace kascade::bench {

// Share of the processors' time that others may take before a sample is dropped.
inline constexpr double kMostForeignShare = 0.06;

struct Sample {
  double seconds = 0;  // of one repetition
  StageSeconds stages{};
  double read_before = 0;  // bytes per second
  double read_after = 0;
  double operations_before = 0;  // per second, of the loop that the measurement is held against
  double operations_after = 0;
  double foreign_share = 0;  // [0, 1]

  double read() const { return (read_before + read_after) / 2; }
  double operations() const { return (operations_before + operations_after) / 2; }
};

struct SampleSet {
  std::vector<Sample> kept{};
  int32_t dropped = 0;
  bool all_disturbed = false;  // every sample was: they are kept, and must be marked

  Summary of(const std::function<double(const Sample&)>& value) const;
  StageSeconds median_stages() const;
};

// Sets aside the samples with more than this foreign share, unless there are no others.
SampleSet sift(const std::vector<Sample>& samples, double most_foreign_share);

struct SamplePlan {
  int32_t repeat = 3;          // samples, fewer if they have taken
  double most_seconds = 20;    // so long
  double least_seconds = 0.3;  // of a sample: shorter measurements are repeated within it
  CeilingLoop loop{};
  Clock clock = Clock::kWall;  // by kThread no sample is disturbed: waiting does not count
};

SampleSet collect(CeilingMeter& meter, const SamplePlan& plan,
                  const std::function<StepTime()>& measure);

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_SAMPLES_H_
