// AdamW, and the learning rate of each update.
#ifndef KASCADE_ENGINE_TRAINING_OPTIMIZER_H_
#define KASCADE_ENGINE_TRAINING_OPTIMIZER_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/adapter/parameters.h"

namespace kascade::training {

enum class Decay { kLinear, kCosine, kNone };
// "linear", "cosine" or "none"; INVALID_ARGUMENT lists the names.
absl::StatusOr<Decay> decay_named(std::string_view name);

struct OptimizerSettings {
  double learning_rate = 2e-4;  // the largest, > 0
  double warmup_ratio = 0.1;    // share of the updates in which it rises from 0; [0, 1]
  Decay decay = Decay::kLinear;
  double weight_decay = 0.01;  // of matrices only; ≥ 0
  double clip_norm = 1;        // the largest norm of the whole gradient; 0: no limit
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
};

// The learning rate of update `update` of `updates`, counted from 0.
double learning_rate_at(const OptimizerSettings& settings, int64_t update, int64_t updates);

// The mean gradients and squared gradients of all parameters.
struct Moments {
  std::vector<float> first{};
  std::vector<float> second{};
};

// Changes the parameters of all layers by their gradient; `update` is counted from 0. Returns the
// norm that the gradient had before clipping. Parameters and moments are unchanged if it is not
// finite. One thread; the result depends on the arguments alone.
double update_parameters(const OptimizerSettings& settings, const LayerParameters& layer,
                         int64_t update, int64_t updates, std::span<const float> gradient,
                         Moments& moments, std::span<float> parameters);

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_OPTIMIZER_H_
