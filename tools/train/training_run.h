// One training from a model's folder and texts to an adapter's folder.
#ifndef KASCADE_TOOLS_TRAIN_TRAINING_RUN_H_
#define KASCADE_TOOLS_TRAIN_TRAINING_RUN_H_

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/adapter/options.h"
#include "engine/training/trainer.h"
#include "tools/train/training_texts.h"

namespace kascade::train {

struct TrainingRequest {
  std::filesystem::path model{};
  std::vector<std::filesystem::path> files{};
  std::optional<QuestionTask> task{};  // what the files are; unset: plain texts
  std::filesystem::path output{};  // folder of the adapter; its checkpoints are in a folder in it
  std::filesystem::path start{};   // folder of an adapter to start from; empty: initial parameters
  AdapterOptions options{};        // not read with `start`
  TextsChoice texts{};
  training::TrainingSettings settings{};
  std::string loss_name = "mse_hidden";
  int32_t updates_between_checkpoints = 50;  // ≥ 1
  int32_t keep = 5;                          // checkpoints
  int32_t threads = 0;                       // 0: one per usable core
};

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
