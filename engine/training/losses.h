// What training makes small: differences between the model with adapters (the student) and the
// dense model (the teacher), and the student's cross-entropy.
#ifndef KASCADE_ENGINE_TRAINING_LOSSES_H_
#define KASCADE_ENGINE_TRAINING_LOSSES_H_

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/training/frozen_layer.h"
#include "engine/training/rows.h"

namespace kascade::training {

// How much each difference counts. The presets have the documents' names and weights.
struct LossSettings {
  double hidden = 0;          // of the mean squared difference of normalised residual streams
  bool last_layer = false;    // whether `hidden` is about the last layer only, or the mean over all
  double divergence = 0;      // of KL(teacher ‖ student) of the tokens, times temperature²
  bool answers_only = false;  // whether `divergence` is about the rows with a target only
  double cross_entropy = 0;   // of −log p of the targets
  double temperature = 2;     // of both distributions in the divergence, > 0

  bool uses_logits() const { return divergence != 0 || cross_entropy != 0; }
};
// "mse_hidden", "kl_logits", "kl_output_only", "mixed" or "ce"; INVALID_ARGUMENT lists the names.
absl::StatusOr<LossSettings> loss_named(std::string_view name);

// A token that is not a target: its row has no cross-entropy.
inline constexpr int32_t kNoTarget = -1;

// The mean squared difference of the rows after a LayerNorm without weights. Adds `weight` times
// its gradient to `gradient`, unless that is null.
template <typename T>
double normalised_difference(const Rows<T>& student, const Rows<T>& teacher, double weight,
                             Rows<T>* gradient);

struct LogitLosses {
  double divergence = 0;     // mean over its rows, temperature² included [nats]
  double cross_entropy = 0;  // mean over the targets [nats]
  int64_t targets = 0;
};

// The losses that need logits: head · row / logits_divisor for the rows behind the final norm,
// [tokens, hidden]. targets[t] is the token that row t should predict, or kNoTarget. Adds the
// gradient of the weighted losses to `gradient`, unless it is null. Logits are computed in pieces
// of 256 rows.
template <typename T>
LogitLosses logit_losses(const Rows<T>& student, const Rows<T>& teacher,
                         const FrozenMatrix<T>& head, double logits_divisor,
                         std::span<const int32_t> targets, const LossSettings& settings,
                         Rows<T>* gradient);

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_LOSSES_H_
