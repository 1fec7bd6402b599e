// Tests the cost model of steps: it must recover known costs from noisy times, and learn nothing
// else.
#include "engine/scheduler/step_cost.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kascade {
namespace {

// As of a 1B model on two cores.
constexpr StepCosts kTrue = {0.07, 2e-4, 4e-3, 6e-4, 1e-9, 3e-9, 8e-10, 2e-9};

StepFeatures prefill(double rows, double depth, bool sparse) {
  const double keys = 16 * rows * (depth + rows / 2);
  return {.rows = rows,
          .logit_rows = 1,
          .tile_keys_attended = sparse ? keys / 5 : keys,
          .tile_keys_scored = sparse ? keys / 4 : 0};
}
StepFeatures decode(double sequences, double depth, bool sparse) {
  const double keys = 16 * sequences * depth;
  return {.rows = sequences,
          .logit_rows = sequences,
          .row_keys_attended = sparse ? keys / 8 : keys,
          .row_keys_scored = sparse ? keys / 4 : 0};
}

double true_seconds(const StepFeatures& f) {
  return kTrue[0] + kTrue[1] * f.rows + kTrue[2] * std::max(0.0, f.rows - 12) +
         kTrue[3] * f.logit_rows + kTrue[4] * f.tile_keys_attended +
         kTrue[5] * f.row_keys_attended + kTrue[6] * f.tile_keys_scored +
         kTrue[7] * f.row_keys_scored;
}

class Steps {
 public:
  StepFeatures any() {
    const double depth = uniform(0, 16000);
    const bool sparse = uniform(0, 1) < 0.5;
    if (uniform(0, 1) < 0.5) return decode(std::floor(uniform(1, 9)), depth, sparse);
    return prefill(32 * std::floor(uniform(1, 17)), depth, sparse);
  }
  double noise(double size) { return std::exp(size * normal_(random_)); }
  double uniform(double from, double to) {
    return std::uniform_real_distribution<double>(from, to)(random_);
  }

 private:
  std::mt19937_64 random_{7};
  std::normal_distribution<double> normal_{};
};

double worst_error(const StepCost& cost, Steps& steps) {
  double worst = 0;
  for (int i = 0; i < 200; ++i) {
    const StepFeatures step = steps.any();
    worst = std::max(worst, std::abs(cost.predict(step).value_or(0) / true_seconds(step) - 1));
  }
  return worst;
}

TEST(StepCost, FindsTheCostsOfExactTimes) {
  Steps steps;
  StepCost cost;
  for (int i = 0; i < 200; ++i) {
    const StepFeatures step = steps.any();
    cost.observe(step, true_seconds(step));
  }
  for (size_t i = 0; i < kStepCosts; ++i) {
    EXPECT_NEAR(cost.costs()[i], kTrue[i], kTrue[i] * 0.01) << kStepCostNames[i];
  }
}

// Observed steps cost more, and their costs are learned beside those of others, which they do not
// displace.
TEST(StepCost, LearnsWhatObserversCost) {
  constexpr double kPerRow = 1e-3, kPerKey = 2e-8;
  Steps steps;
  StepCost cost;
  const StepFeatures plain = prefill(512, 4000, false);
  const auto observed = [](double tiles, double depth) {
    StepFeatures step = prefill(32 * tiles, depth, false);
    step.observed_rows = step.rows;
    step.observed_keys = 16 * tiles * depth;
    return step;
  };
  const auto observed_seconds = [&](const StepFeatures& step) {
    return true_seconds(step) + kPerRow * step.observed_rows + kPerKey * step.observed_keys;
  };
  for (int i = 0; i < 100; ++i) {
    const StepFeatures step = steps.any();
    cost.observe(step, true_seconds(step));
  }
  EXPECT_TRUE(cost.predict(plain).has_value());
  EXPECT_FALSE(cost.predict(observed(4, 1000)).has_value()) << "no observed step was measured";
  for (int i = 0; i < 400; ++i) {
    const StepFeatures step = observed(std::floor(steps.uniform(1, 17)), steps.uniform(0, 16000));
    cost.observe(step, observed_seconds(step));
  }
  for (const double depth : {500.0, 4000.0, 15000.0}) {
    const StepFeatures step = observed(5, depth);
    EXPECT_NEAR(cost.predict(step).value_or(0) / observed_seconds(step), 1, 0.05) << depth;
  }
  EXPECT_NEAR(cost.predict(plain).value_or(0) / true_seconds(plain), 1, 0.05);
}

TEST(StepCost, NoiseAveragesOut) {
  Steps steps;
  StepCost cost;
  for (int i = 0; i < 400; ++i) {
    const StepFeatures step = steps.any();
    cost.observe(step, true_seconds(step) * steps.noise(0.05));
  }
  EXPECT_LT(worst_error(cost, steps), 0.06);
}

TEST(StepCost, OutliersHardlyCount) {
  Steps steps;
  StepCost cost;
  for (int i = 0; i < 400; ++i) {
    const StepFeatures step = steps.any();
    const double outlier = i % 10 == 3 ? steps.uniform(2, 20) : 1;
    cost.observe(step, true_seconds(step) * steps.noise(0.02) * outlier);
  }
  EXPECT_LT(worst_error(cost, steps), 0.05);
}

// As when the wall clock is set back while a step runs.
TEST(StepCost, TimesThatCannotBeAreNotBelieved) {
  Steps steps;
  StepCost cost;
  for (int i = 0; i < 200; ++i) {
    const StepFeatures step = steps.any();
    cost.observe(step, true_seconds(step) * steps.noise(0.03));
  }
  for (const double factor : {1e-3, 1e-5, 1e-9}) {
    cost.observe(decode(2, 1000, false), factor * true_seconds(decode(2, 1000, false)));
    cost.observe(prefill(512, 0, false), factor * true_seconds(prefill(512, 0, false)));
  }
  for (int i = 0; i < 32; ++i) {
    const StepFeatures step = steps.any();
    cost.observe(step, true_seconds(step) * steps.noise(0.03));
  }
  EXPECT_LT(worst_error(cost, steps), 0.1);
}

TEST(StepCost, DecodingDoesNotMakeItForgetPrompts) {
  Steps steps;
  StepCost cost;
  for (int i = 0; i < 100; ++i) {
    const StepFeatures step = steps.any();
    cost.observe(step, true_seconds(step));
  }
  for (int i = 0; i < 5000; ++i) {
    const StepFeatures step = decode(1, 1000, false);
    cost.observe(step, true_seconds(step) * steps.noise(0.02));
  }
  const StepFeatures prompt = prefill(512, 4000, false);
  EXPECT_NEAR(cost.predict(prompt).value_or(0) / true_seconds(prompt), 1, 0.05);
}

TEST(StepCost, FollowsAMachineThatBecameSlower) {
  Steps steps;
  StepCost cost;
  for (int i = 0; i < 2000; ++i) {
    const StepFeatures step = steps.any();
    cost.observe(step, true_seconds(step) * (i < 1000 ? 1 : 2));
  }
  const StepFeatures step = prefill(256, 2000, true);
  EXPECT_NEAR(cost.predict(step).value_or(0) / true_seconds(step), 2, 0.05);
}

TEST(StepCost, SaysNothingBeforeItKnows) {
  StepCost cost;
  EXPECT_FALSE(cost.predict(decode(1, 10, false)).has_value());
  for (int i = 0; i < 7; ++i) cost.observe(decode(1, 10, false), 0.1);
  EXPECT_FALSE(cost.predict(decode(1, 10, false)).has_value());
  cost.observe(decode(1, 10, false), 0.1);
  EXPECT_NEAR(cost.predict(decode(1, 10, false)).value_or(0), 0.1, 1e-3);
}

TEST(StepCost, NeverNegativeNeverNan) {
  Steps steps;
  StepCost cost;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 1000; ++i) {
    StepFeatures step = steps.any();
    if (i % 7 == 0) step.rows = std::nan("");
    if (i % 11 == 0) step.tile_keys_scored = kInfinity;
    if (i % 13 == 0) step.row_keys_scored = -5;
    if (i % 5 == 0) step = {};
    // Times that have nothing to do with the work, and the worst a clock can give.
    const double odd[] = {0, -1, std::nan(""), kInfinity, 1e-12, 1e12};
    cost.observe(step, i % 3 == 0 ? odd[i % 6] : steps.uniform(1e-9, 100));
    for (const double c : cost.costs()) ASSERT_TRUE(std::isfinite(c) && c >= 0) << i;
    const double predicted = cost.predict(steps.any()).value_or(0);
    ASSERT_TRUE(std::isfinite(predicted) && predicted >= 0) << i;
  }
}

}  // namespace
}  // namespace kascade
