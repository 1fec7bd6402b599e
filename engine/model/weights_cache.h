// Uses packed weights of earlier runs at a start: those in the folder of the cache, else those that
// the model folder brings (packed_weights.h). A problem with a file never makes a start fail: it
// becomes a warning, and the weights are packed as without it. The exception is a file that is cut
// or becomes unreadable after it was mapped, which ends the process, as with any mapped file.
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
  // Looks for the file in `directory`, under a name that consists of the weight format and the key
  // of its layout; if `directory` is empty, the cache is off. If there is no valid file, looks for
  // the file of the model folder. `checkpoint` is that of `model_folder`.
  WeightsCache(const std::filesystem::path& directory, const std::filesystem::path& model_folder,
               const ModelConfig& config, const Checkpoint& checkpoint, const Backend& backend);

  // Moves the file out for the Transformer; unset if there is no valid file.
  std::optional<PackedFile> take();
  // Writes the packed matrices of `transformer`, which must have the same model and backend, to the
  // folder of the cache, if it is on and the matrices did not come from a file.
  void keep(const Transformer& transformer);

  const std::string& outcome() const { return outcome_; }  // "read FILE", "wrote FILE", or empty
  // One warning for each problem, naming the file.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  // A file that is not there yet.
  struct NewFile {
    std::filesystem::path path;
    PackedLayout layout;
    PackedSource source;
    absl::Status write(const Transformer& transformer) const;
  };
  // Whether there is such a file; the reason why it cannot be used becomes a warning.
  bool read(const std::filesystem::path& file, const PackedLayout& layout,
            const PackedSource& source);
  void warn(const absl::Status& status);

  std::optional<NewFile> to_write_{};
  std::optional<PackedFile> file_{};
  std::string outcome_{};
  std::vector<std::string> warnings_{};
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_WEIGHTS_CACHE_H_
