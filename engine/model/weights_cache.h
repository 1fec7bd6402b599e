// Keeps packed weights on disk between starts: decides which file belongs to a model and a backend
// and what it must hold (packed_file.h defines the file). A problem with the file never makes a
// start fail: it becomes a warning, and the weights are packed as without a cache. The exception is
// a file that is cut or becomes unreadable after it was mapped, which ends the process, as with any
// mapped file.
#ifndef KASCADE_ENGINE_MODEL_WEIGHTS_CACHE_H_
#define KASCADE_ENGINE_MODEL_WEIGHTS_CACHE_H_

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/packed_file.h"
#include "engine/model/transformer.h"

namespace kascade {

class WeightsCache {
 public:
  // Looks for the file in `directory`; if that is empty, the cache is off. The name of the file
  // consists of the weight format and a key. The key is a digest over the digest of the checkpoint,
  // the name, size and modification time of each of its files, and the form and shape of each
  // matrix.
  WeightsCache(const std::filesystem::path& directory, const ModelConfig& config,
               const Checkpoint& checkpoint, const Backend& backend);

  // Moves the file out for the Transformer; unset if there is no valid file.
  std::optional<PackedFile> take();
  // Writes the packed matrices of `transformer`, which must have the same model and backend, unless
  // they came from the file.
  void keep(const Transformer& transformer);

  const std::string& outcome() const { return outcome_; }  // "read FILE", "wrote FILE", or empty
  // One warning for each problem, naming the file.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  struct Place {
    std::filesystem::path file;
    PackedLayout layout;
  };
  static absl::StatusOr<Place> find_place(const std::filesystem::path& directory,
                                          const ModelConfig& config, const Checkpoint& checkpoint,
                                          const Backend& backend);
  void warn(const absl::Status& status);

  std::optional<Place> place_{};  // unset: the cache is off or cannot be used
  std::optional<PackedFile> file_{};
  bool read_ = false;
  std::string outcome_{};
  std::vector<std::string> warnings_{};
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_WEIGHTS_CACHE_H_
