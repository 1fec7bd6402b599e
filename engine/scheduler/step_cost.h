// The duration of a step, learned from earlier steps: a sum of the amounts of work in it, with
// coefficients fitted to measured durations. It decides only how many rows a step gets, never what
// they compute. It has no clock and is told the durations.
#ifndef KASCADE_ENGINE_SCHEDULER_STEP_COST_H_
#define KASCADE_ENGINE_SCHEDULER_STEP_COST_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace kascade {

// The work of a step, as far as its duration depends on it. Keys are per KV head, summed over rows
// and layers. Keys for rows in a tile and for rows that stand alone are counted separately, because
// the former are cheaper.
struct StepFeatures {
  double rows = 0;
  double logit_rows = 0;
  double tile_keys_attended = 0;
  double row_keys_attended = 0;
  double tile_keys_scored = 0;
  double row_keys_scored = 0;
  // What observers do (engine/attention/observer.h): rows whose residual stream is copied for them,
  // and keys of the tiles that they measure, summed over layers.
  double observed_rows = 0;
  double observed_keys = 0;

  bool is_observed() const { return observed_rows > 0; }
  StepFeatures& operator+=(const StepFeatures& other);
};

inline constexpr size_t kStepCosts = 10;
using StepCosts = std::array<double, kStepCosts>;  // seconds per unit of each of the amounts below
inline constexpr std::string_view kStepCostNames[kStepCosts] = {
    "per step, s",
    "per row, s",
    "per row beyond 12, s",  // up to 12 rows, reading the weights takes longer than multiplying
    "per row of logits, s",
    "attention in a tile, s per key",
    "attention of a row, s per key",
    "scoring in a tile, s per key",
    "scoring of a row, s per key",
    "per observed row, s",
    "measuring for an observer, s per key",
};

class StepCost {
 public:
  // Learns from a measured step. Values that are not finite or not above 0 are ignored, and steps
  // that took much longer than similar ones hardly count.
  void observe(const StepFeatures& features, double seconds);

  // The predicted seconds: finite, ≥ 0 and non-decreasing in every feature. Unset until some steps
  // were measured, and for a step with an observer, until some of these were.
  std::optional<double> predict(const StepFeatures& features) const;

  const StepCosts& costs() const { return costs_; }  // each ≥ 0

 private:
  struct Step {
    StepCosts amounts{};
    double seconds = 0;
  };
  // The latest steps with a similar number of rows, without or with an observer. They are kept
  // separately, because thousands of decode steps, or of a calibration, must not displace what was
  // learned about prompts.
  struct Recent {
    std::vector<Step> steps{};
    size_t next = 0;
  };
  static constexpr size_t kMagnitudes = 20;

  static StepCosts amounts_of(const StepFeatures& features);
  void fit();

  std::array<std::array<Recent, kMagnitudes>, 2> recent_{};  // [whether observed]
  int64_t learned_ = 0;                                      // steps
  int64_t learned_observed_ = 0;                             // of these, the ones with an observer
  StepCosts costs_{};
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_STEP_COST_H_
