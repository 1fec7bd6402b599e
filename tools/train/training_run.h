// One training from a model's folder and texts to an adapter's folder.
#ifndef KASCADE_TOOLS_TRAIN_TRAINING_RUN_H_
#define KASCADE_TOOLS_TRAIN_TRAINING_RUN_H_

#include <atomic>
#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "engine/training/trainer.h"
#include "tools/train/training_inputs.h"

namespace kascade::train {

struct TrainingOutcome {
  training::TrainingEnd end = training::TrainingEnd::kFinished;
  int64_t updates = 0;       // done
  double best_held_out = 0;  // NaN before the first check
  int64_t parameters = 0;
  int64_t training_tokens = 0;
  int64_t texts = 0;
  int64_t held_out_texts = 0;
};

// Continues from the newest checkpoint if there is one. `report` is called after every update; one
// JSON object per update is appended to `output`/training.jsonl. Ends after the current update,
// with a checkpoint, when `interrupted` becomes true. The adapter is written with the parameters of
// the best held-out loss.
absl::StatusOr<TrainingOutcome> train(
    const TrainingRequest& request, const std::atomic<bool>& interrupted,
    const std::function<void(const training::UpdateReport&)>& report);

}  // namespace kascade::train

#endif  // KASCADE_TOOLS_TRAIN_TRAINING_RUN_H_
