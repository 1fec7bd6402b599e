// Writes one safetensors file from front to back. Only the part of a tensor that the caller passes
// is in memory.
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
  // Creates `file`, which must not exist yet, and writes the header for `tensors`.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> create(
      const std::filesystem::path& file, std::span<const SourceTensor> tensors);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Writes the next bytes of the tensors, in the order given to create().
  absl::Status append(std::span<const std::byte> bytes);
  // Flushes the file to disk, closes it and returns its SHA-256 in hexadecimal. CHECKs that all
  // bytes that the header announces were written.
  absl::StatusOr<std::string> finish();

 private:
  SafetensorsWriter(std::filesystem::path file, int descriptor);
  absl::Status write(std::span<const std::byte> bytes);

  std::filesystem::path file_;
  int descriptor_;
  int64_t missing_bytes_ = 0;
  Sha256 digest_;
};

// Writes a small file, flushes it to disk and closes it. The file must not exist yet.
absl::Status write_file(const std::filesystem::path& file, std::string_view content);

// Returns the header with its length before it. It is padded so that the data is aligned to 8
// bytes.
std::string safetensors_header(std::span<const SourceTensor> tensors);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_SAFETENSORS_WRITER_H_
