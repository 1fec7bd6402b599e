// What an adapter costs on texts, beside dense attention of the same model.
#ifndef KASCADE_TOOLS_TRAIN_EVALUATION_H_
#define KASCADE_TOOLS_TRAIN_EVALUATION_H_

#include <atomic>
#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "tools/train/training_inputs.h"

namespace kascade::train {

struct Evaluation {
  int64_t texts = 0;
  int64_t tokens = 0;     // of all texts
  int64_t predicted = 0;  // tokens that count: those with a target
  // Means over the predicted tokens of all texts [nats].
  double dense_nll = 0;
  double adapter_nll = 0;
  // The standard error of the difference, from its spread over the texts; NaN for one text.
  double rise_error = 0;
  double divergence = 0;  // KL(dense ‖ adapter) of the next token, over all tokens
  // Keys that rows read in all three branches ÷ those that dense attention reads, summed over all
  // rows. A key that two branches read counts twice.
  double keys_share = 0;

  double dense_perplexity() const;
  double adapter_perplexity() const;
};

// Runs the model densely and with the adapter in `request.start` over all pieces of the files, each
// from its own beginning. `report(done, texts)` is called after every text. CANCELLED when
// `interrupted` becomes true. Other errors are those of open_inputs().
absl::StatusOr<Evaluation> evaluate(const TrainingRequest& request,
                                    const std::atomic<bool>& interrupted,
                                    const std::function<void(int64_t, int64_t)>& report);

}  // namespace kascade::train

#endif  // KASCADE_TOOLS_TRAIN_EVALUATION_H_
