// Which file of packed weights belongs to a model and a backend, and how it is made.
#ifndef KASCADE_ENGINE_MODEL_PACKED_WEIGHTS_H_
#define KASCADE_ENGINE_MODEL_PACKED_WEIGHTS_H_

#include <cstdint>
#include <filesystem>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/tensor.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/packed_file.h"

namespace kascade {

// The file in which a model folder brings its packed weights of a format: packed/int4.packed.
std::filesystem::path packed_file_of(const std::filesystem::path& model_folder,
                                     WeightFormat format);

// The layout of the file. Its key is a digest over that of the checkpoint and the form and shape of
// each matrix. FAILED_PRECONDITION, naming the weight format and the backend, if the backend's
// weights cannot be kept in a file.
absl::StatusOr<PackedLayout> packed_layout(const ModelConfig& config, const Checkpoint& checkpoint,
                                           const Backend& backend);

// What the file remembers of the checkpoint, which must come from files (CHECKed) and outlive the
// result. The times are a digest over name, size and time of last change of each file; the checksum
// is over the bytes of all tensors. An error names a file whose size or time cannot be read.
absl::StatusOr<PackedSource> packed_source(const Checkpoint& checkpoint);

struct PackProgress {
  int64_t bytes_done = 0;  // of the file
  int64_t bytes_total = 0;
};

// Packs the matrices of the checkpoint for `backend` and writes them to `file`, one at a time, so
// that no more than one packed matrix is in memory. `report` is called before each matrix; if it
// returns an error, that is the result. Returns the size of the file in bytes. After an error, what
// was at `file` before is still there.
absl::StatusOr<int64_t> write_packed_weights(
    const std::filesystem::path& file, const ModelConfig& config, const Checkpoint& checkpoint,
    Backend& backend, const std::function<absl::Status(const PackProgress&)>& report);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_PACKED_WEIGHTS_H_
