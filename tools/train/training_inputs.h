// What a training or an evaluation reads: the frozen model, an adapter and texts.
#ifndef KASCADE_TOOLS_TRAIN_TRAINING_INPUTS_H_
#define KASCADE_TOOLS_TRAIN_TRAINING_INPUTS_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/adapter/adapter_file.h"
#include "engine/adapter/options.h"
#include "engine/backend/backend.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/training/student.h"
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

// Members are destroyed in reverse order.
struct TrainingInputs {
  ModelConfig config{};
  Checkpoint checkpoint{};
  std::unique_ptr<Backend> backend{};
  std::unique_ptr<training::Products<float>> products{};
  Adapter adapter{};  // options and shape; parameters if there is an adapter to start from
  std::unique_ptr<training::Student<float>> student{};
  ChosenTexts texts{};
};

// INVALID_ARGUMENT, NOT_FOUND or UNIMPLEMENTED name the file or option. FAILED_PRECONDITION if the
// adapter was trained on another model.
absl::Status open_inputs(const TrainingRequest& request, TrainingInputs& inputs);

}  // namespace kascade::train

#endif  // KASCADE_TOOLS_TRAIN_TRAINING_INPUTS_H_
