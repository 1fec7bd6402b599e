// Writes files of packed weights (packed_file.h), one matrix after another.
#ifndef KASCADE_ENGINE_MODEL_PACKED_FILE_WRITER_H_
#define KASCADE_ENGINE_MODEL_PACKED_FILE_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/packed_file.h"

namespace kascade {

// Writes a temporary file in the same folder. finish() gives it its name, so that the file is
// either complete or absent, even after a power failure. Without finish() nothing is left.
class PackedFileWriter {
 public:
  // Creates the folder if necessary. ABORTED if another process is writing the same file.
  static absl::StatusOr<PackedFileWriter> create(const std::filesystem::path& file,
                                                 PackedLayout layout);
  PackedFileWriter(PackedFileWriter&& other) noexcept;
  ~PackedFileWriter();

  // Appends the next matrix of the layout; `bytes` has the size that the layout states (CHECKed).
  absl::Status add(std::span<const std::byte> bytes);
  // Writes the header, after all matrices (CHECKed), and renames the file. Calls source.checksum().
  absl::Status finish(const PackedSource& source);

 private:
  class PartialFile;
  PackedFileWriter(std::filesystem::path file, PackedLayout layout,
                   std::unique_ptr<PartialFile> partial);

  std::filesystem::path file_;
  PackedLayout layout_;
  std::unique_ptr<PartialFile> partial_;
  std::vector<uint64_t> checksums_{};  // of the matrices added so far
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_PACKED_FILE_WRITER_H_
