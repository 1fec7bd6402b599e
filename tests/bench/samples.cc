#include "tests/bench/samples.h"

#include <algorithm>

#include "tests/bench/processor_time.h"

namespace kascade::bench {
namespace {

// Stores the mean of as many runs as are needed to reach plan.least_seconds. Returns the total
// time.
double measure_into(const SamplePlan& plan, const std::function<StepTime()>& measure,
                    Sample& sample) {
  int32_t runs = 0;
  double all = 0;
  do {
    const StepTime time = measure();
    all += time.seconds;
    for (size_t stage = 0; stage < kStages; ++stage) sample.stages[stage] += time.stages[stage];
    ++runs;
  } while (all < plan.least_seconds);
  sample.seconds = all / runs;
  for (double& seconds : sample.stages) seconds /= runs;
  return all;
}

}  // namespace

Summary SampleSet::of(const std::function<double(const Sample&)>& value) const {
  std::vector<double> values;
  for (const Sample& sample : kept) values.push_back(value(sample));
  return summarize(std::move(values));
}

StageSeconds SampleSet::median_stages() const {
  StageSeconds medians{};
  for (size_t stage = 0; stage < kStages; ++stage) {
    medians[stage] = of([&](const Sample& sample) { return sample.stages[stage]; }).median;
  }
  return medians;
}

SampleSet sift(const std::vector<Sample>& samples, double most_foreign_share) {
  SampleSet set;
  for (const Sample& sample : samples) {
    if (sample.foreign_share <= most_foreign_share) set.kept.push_back(sample);
  }
  if (set.kept.empty()) return {.kept = samples, .dropped = 0, .all_disturbed = true};
  set.dropped = static_cast<int32_t>(samples.size() - set.kept.size());
  return set;
}

SampleSet collect(CeilingMeter& meter, const SamplePlan& plan,
                  const std::function<StepTime()>& measure) {
  std::vector<Sample> samples;
  const int32_t processors = online_processors();
  double spent = 0;
  for (int32_t round = 0; round < plan.repeat && spent < plan.most_seconds; ++round) {
    Sample& sample = samples.emplace_back();
    sample.operations_before = meter.operations_per_second(plan.loop);
    sample.read_before = meter.read_burst();
    const ProcessorTime before = processor_time_now();
    spent += measure_into(plan, measure, sample);
    sample.foreign_share = foreign_share(before, processor_time_now(), processors);
    sample.read_after = meter.read_burst();
    sample.operations_after = meter.operations_per_second(plan.loop);
  }
  return sift(samples, plan.clock == Clock::kWall ? kMostForeignShare : 1);
}

}  // namespace kascade::bench
