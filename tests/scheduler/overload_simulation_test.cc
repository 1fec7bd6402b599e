// Tests admission and scheduler under more load than there is capacity, in a simulated time: a step
// takes so long, and each row of it a little more. Requests arrive at random moments.
#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/scheduler/admission.h"
#include "engine/scheduler/place_outlook.h"
#include "engine/scheduler/scheduler.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

constexpr double kSeconds = 300;  // of each load

struct Machine {
  double step_seconds = 0.01;
  double row_seconds = 0.0005;
  int32_t max_sequences = 32;
};

struct Work {
  int32_t prompt = 100;
  int32_t new_tokens = 48;        // that are permitted
  int32_t least_new_tokens = 48;  // the number that is generated is random, from this on
};

struct Measured {
  double per_second = 0;  // requests that ended
  int32_t refused = 0;
  std::vector<double> first_token{};  // seconds, of the admitted ones

  double first_token_p99() const {
    std::vector<double> ordered = first_token;
    std::ranges::sort(ordered);
    return ordered.at(ordered.size() * 99 / 100);
  }
};

class Simulation {
 public:
  Simulation(const Machine& machine, const Work& work)
      : machine_(machine),
        work_(work),
        limits_{.max_batch_tokens = 512, .max_sequences = machine.max_sequences},
        blocks_(100'000, 16),
        scheduler_(limits_, blocks_),
        admission_({.max_queued_tokens = int64_t{1} << 40,
                    .max_wait_seconds = kAutomaticWait,
                    .max_sequences = machine.max_sequences,
                    .block_size = 16}) {}

  // Requests arrive on average so often in a second; none after `seconds`.
  Measured offer(double per_second, double seconds) {
    Measured measured;
    std::exponential_distribution<double> pause(per_second);
    const double begin = now_;
    double arrival = begin + pause(random_);
    int32_t ended = 0;
    while (now_ < begin + seconds) {
      for (; arrival <= now_; arrival += pause(random_)) arrive(arrival, measured);
      if (scheduler_.empty()) {
        idle_ += arrival - now_;
        now_ = arrival;
        continue;
      }
      ended += step(measured);
    }
    measured.per_second = ended / seconds;
    return measured;
  }

  // So many requests at once; how many were refused.
  int32_t burst(int32_t requests) {
    Measured measured;
    for (int32_t i = 0; i < requests; ++i) arrive(now_, measured);
    return measured.refused;
  }

  // Requests per second with an empty queue at no time.
  double capacity(double seconds) {
    Measured measured;
    int32_t ended = 0;
    const double begin = now_;
    while (now_ < begin + seconds) {
      while (scheduler_.waiting() < machine_.max_sequences) admit(now_);
      ended += step(measured);
    }
    return ended / seconds;
  }

 private:
  QueueEntry entry() const { return {.tokens = work_.prompt, .new_tokens = work_.new_tokens}; }

  void arrive(double at, Measured& measured) {
    if (admission_.check(entry(), scheduler_.empty() ? idle_ : 0).ok()) {
      admit(at);
    } else {
      ++measured.refused;
    }
  }

  void admit(double at) {
    admission_.enter(entry());
    std::uniform_int_distribution<int32_t> length(work_.least_new_tokens, work_.new_tokens);
    requests_[++last_id_] = {.arrival = at, .new_tokens = length(random_)};
    ASSERT_TRUE(scheduler_
                    .admit(last_id_, {.tokens = std::vector<Token>(work_.prompt, 1),
                                      .generates = true,
                                      .max_tokens = work_.prompt + work_.new_tokens,
                                      .prefill_end = work_.prompt})
                    .ok());
  }

  double seconds_of(int32_t rows) const {
    return machine_.step_seconds + rows * machine_.row_seconds;
  }

  // The number of requests that ended with it.
  int32_t step(Measured& measured) {
    const StepPlan plan = scheduler_.plan(absl::UnixEpoch());
    int32_t rows = 0;
    std::vector<Outcome> outcomes;
    std::vector<QueueEntry> started;
    for (const Slice& slice : plan.slices) {
      rows += slice.count;
      Request& request = requests_.at(slice.seq);
      if (!std::exchange(request.started, true)) started.push_back(entry());
      if (scheduler_.find(slice.seq)->remaining() > slice.count) continue;
      ++request.generated;
      outcomes.push_back(
          {.seq = slice.seq, .generated = 1, .finished = request.generated == request.new_tokens});
    }
    now_ += seconds_of(rows);
    for (const Outcome& outcome : outcomes) {
      Request& request = requests_.at(outcome.seq);
      if (request.generated == 1) measured.first_token.push_back(now_ - request.arrival);
    }
    const auto ended = static_cast<int32_t>(scheduler_.commit(plan, outcomes).size());
    for (const QueueEntry& left : started) admission_.leave(left);
    const double share = 0.5 * (work_.least_new_tokens + work_.new_tokens) / work_.new_tokens;
    admission_.set_outlook(place_outlook(scheduler_, limits_, blocks_, share));
    admission_.record_step({.seconds = seconds_of(rows),
                            .idle_seconds = std::exchange(idle_, 0),
                            .interactive_rows = rows,
                            .started = started,
                            .rows_per_second = 512 / seconds_of(512)});
    return ended;
  }

  struct Request {
    double arrival = 0;
    int32_t new_tokens = 0;
    int32_t generated = 0;
    bool started = false;
  };

  const Machine machine_;
  const Work work_;
  const SchedulerLimits limits_;
  BlockAllocator blocks_;
  Scheduler scheduler_;
  Admission admission_;
  std::mt19937 random_{7};
  std::map<SeqId, Request> requests_;
  SeqId last_id_ = 0;
  double now_ = 0;
  double idle_ = 0;
};

struct Case {
  std::string name;
  Machine machine{};
  Work work{};
};

const Case kCases[] = {
    {"Short", {}, {}},
    {"RandomLengths", {}, {.least_new_tokens = 8}},
    {"LongPrompts", {}, {.prompt = 1500, .new_tokens = 32, .least_new_tokens = 32}},
    {"LongAnswers", {}, {.prompt = 50, .new_tokens = 400, .least_new_tokens = 100}},
    {"FewPlaces", {.max_sequences = 4}, {}},
    {"OnePlace", {.max_sequences = 1}, {}},
    {"ManyPlaces", {.max_sequences = 64}, {.new_tokens = 128, .least_new_tokens = 64}},
};

class OverloadSimulation : public testing::TestWithParam<Case> {};

TEST_P(OverloadSimulation, DelaysLittleAndWastesLittle) {
  const auto& [name, machine, work] = GetParam();
  const double capacity = Simulation(machine, work).capacity(200);
  Simulation simulation(machine, work);
  const Measured usual = simulation.offer(0.8 * capacity, kSeconds);
  EXPECT_LE(usual.refused, 0.05 * 0.8 * capacity * kSeconds);
  for (const double multiple : {3, 10}) {
    simulation.offer(multiple * capacity, 20);  // until all places are taken
    const Measured load = simulation.offer(multiple * capacity, kSeconds);
    EXPECT_LE(load.first_token_p99(), 2 * usual.first_token_p99()) << multiple;
    EXPECT_GE(load.per_second, 0.95 * capacity) << multiple;
    EXPECT_GT(load.refused, 0.6 * (multiple - 1) * capacity * kSeconds) << "not much of a load";
  }
}

TEST_P(OverloadSimulation, BurstsAreServedAfterAPause) {
  const auto& [name, machine, work] = GetParam();
  Simulation simulation(machine, work);
  EXPECT_EQ(simulation.burst(10), 0);
  simulation.offer(0.2 * simulation.capacity(100), 100);
  EXPECT_EQ(simulation.burst(machine.max_sequences), 0) << "hardly anything came for long";
}

INSTANTIATE_TEST_SUITE_P(Cases, OverloadSimulation, testing::ValuesIn(kCases),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace kascade
