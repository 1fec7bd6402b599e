// Packed weights that are kept on disk between starts: which file belongs to a model and a backend,
// and what it must hold. Nothing that is wrong with it ever fails a start: it is a warning, and the
// weights are packed as without. Except that a file which is cut or cannot be read once it is
// mapped ends the process, as any mapped file does. The file itself is packed_file.h's.
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
  // Looks for the file in `directory`; if that is empty, the cache does nothing. The file is named
  // by the weight format and the key: the digest of the checkpoint, name, size and time of last
  // change of each of its files, form and shape of each matrix.
  WeightsCache(const std::filesystem::path& directory, const ModelConfig& config,
               const Checkpoint& checkpoint, const Backend& backend);

  // The file, once, for the Transformer; nothing if there is none that is good.
  std::optional<PackedFile> take();
  // Writes what `transformer`, of the same model and backend, has packed, unless it came from here.
  void keep(const Transformer& transformer);

  const std::string& outcome() const { return outcome_; }  // "read FILE", "wrote FILE", or empty
  // Why something else happened; one each, naming the file.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  struct Place {
    std::filesystem::path file;
    PackedPlan plan;
  };
  static absl::StatusOr<Place> find_place(const std::filesystem::path& directory,
                                          const ModelConfig& config, const Checkpoint& checkpoint,
                                          const Backend& backend);
  void warn(const absl::Status& status);

  std::optional<Place> place_{};  // unset: off, or of no use
  std::optional<PackedFile> file_{};
  bool read_ = false;
  std::string outcome_{};
  std::vector<std::string> warnings_{};
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_WEIGHTS_CACHE_H_
