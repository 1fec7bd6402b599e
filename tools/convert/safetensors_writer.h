// Writes one safetensors file front to back, so that no more than the caller's piece of a tensor is
// ever in memory.
#ifndef KASCADE_TOOLS_CONVERT_SAFETENSORS_WRITER_H_
#define KASCADE_TOOLS_CONVERT_SAFETENSORS_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/digest.h"
#include "tools/convert/source.h"

namespace kascade::convert {

class SafetensorsWriter {
 public:
  // Creates `file`, which must not exist, and writes its header for `tensors`.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> create(
      const std::filesystem::path& file, std::span<const SourceTensor> tensors);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The next bytes of the tensors, in the order given to create().
  absl::Status append(std::span<const std::byte> bytes);
  // Syncs and closes; CHECKs that every byte promised by the header came. SHA-256 hex of the file.
  absl::StatusOr<std::string> finish();

 private:
  SafetensorsWriter(std::filesystem::path file, int descriptor);
  absl::Status write(std::span<const std::byte> bytes);

  std::filesystem::path file_;
  int descriptor_;
  int64_t missing_bytes_ = 0;
  Sha256 digest_;
};

// Writes, syncs and closes a small file; it must not exist.
absl::Status write_file(const std::filesystem::path& file, std::string_view content);

// The header, with its length in front and padded so that the data is aligned to 8 bytes.
std::string safetensors_header(std::span<const SourceTensor> tensors);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_SAFETENSORS_WRITER_H_
