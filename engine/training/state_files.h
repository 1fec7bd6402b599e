// Checkpoints of a training: folders from which it continues with the same bits.
#ifndef KASCADE_ENGINE_TRAINING_STATE_FILES_H_
#define KASCADE_ENGINE_TRAINING_STATE_FILES_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/adapter/parameters.h"
#include "engine/training/trainer.h"

namespace kascade::training {

// `folder`/NNNNNNNN is the checkpoint after N updates. A checkpoint without its last file,
// state.json, is not one: a process that is killed leaves it behind.
class StateFiles {
 public:
  // `settings` describes what the training depends on; another training's checkpoints are refused.
  StateFiles(std::filesystem::path folder, const LayerParameters& layer, int32_t layers,
             std::string settings)
      : folder_(std::move(folder)),
        layer_(layer),
        layers_(layers),
        settings_(std::move(settings)) {}

  // Writes a checkpoint, then removes all but the newest `keep`.
  absl::Status save(const TrainingState& state, int32_t keep) const;
  // The newest whole checkpoint; unset if there is none. FAILED_PRECONDITION if it is of a training
  // with other settings; INVALID_ARGUMENT, naming the file, if it is damaged.
  absl::StatusOr<std::optional<TrainingState>> newest() const;

 private:
  absl::StatusOr<TrainingState> load(const std::filesystem::path& checkpoint) const;

  std::filesystem::path folder_;
  LayerParameters layer_;
  int32_t layers_;
  std::string settings_;
};

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_STATE_FILES_H_
