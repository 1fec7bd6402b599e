// How long a step takes, learned from the steps before: a sum of what it has to do, with
// coefficients fitted to measured steps. Decides only how many rows a step gets, never what they
// compute. Pure: it is told the times.
#ifndef KASCADE_ENGINE_SCHEDULER_STEP_COST_H_
#define KASCADE_ENGINE_SCHEDULER_STEP_COST_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace kascade {

// What a step has to do, as far as its time depends on it. Keys are per KV head, summed over rows
// and layers; those of rows that share a tile are cheaper than those of a row alone.
struct StepFeatures {
  double rows = 0;
  double logit_rows = 0;
  double tile_keys_attended = 0;
  double row_keys_attended = 0;
  double tile_keys_scored = 0;
  double row_keys_scored = 0;

  StepFeatures& operator+=(const StepFeatures& other);
};

inline constexpr size_t kStepCosts = 8;
using StepCosts = std::array<double, kStepCosts>;  // seconds per unit of each of these
inline constexpr std::string_view kStepCostNames[kStepCosts] = {
    "per step, s",
    "per row, s",
    "per row beyond 12, s",  // up to there, weights are read more slowly than multiplied
    "per row of logits, s",
    "attention in a tile, s per key",
    "attention of a row, s per key",
    "scoring in a tile, s per key",
    "scoring of a row, s per key",
};

class StepCost {
 public:
  // A step that was measured. What is not finite or not above 0 is ignored, and steps that took
  // much longer than others like them hardly count.
  void observe(const StepFeatures& features, double seconds);

  // Finite and ≥ 0; the more there is to do, the longer. Nothing before some steps were observed.
  std::optional<double> predict(const StepFeatures& features) const;

  const StepCosts& costs() const { return costs_; }  // each ≥ 0

 private:
  struct Step {
    StepCosts amounts{};
    double seconds = 0;
  };
  // The last steps of about so many rows. Apart, because thousands of decoding steps must not make
  // it forget what a prompt costs.
  struct Recent {
    std::vector<Step> steps{};
    size_t next = 0;
  };
  static constexpr size_t kMagnitudes = 20;

  static StepCosts amounts_of(const StepFeatures& features);
  void fit();

  std::array<Recent, kMagnitudes> recent_{};
  int64_t observed_ = 0;
  StepCosts costs_{};
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_STEP_COST_H_
