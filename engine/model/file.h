// Reading files that somebody else made: regular files only, so that a FIFO or a directory in a
// model folder is an error and not a hang. Used by the readers of this folder.
#ifndef KASCADE_ENGINE_MODEL_FILE_H_
#define KASCADE_ENGINE_MODEL_FILE_H_

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/statusor.h"

namespace kascade {

// An open descriptor of a regular file; closed at the end of its life.
class RegularFile {
 public:
  // NOT_FOUND if there is no such file, INVALID_ARGUMENT if it is not a regular one.
  static absl::StatusOr<RegularFile> open(const std::filesystem::path& path);
  RegularFile(RegularFile&& other) noexcept;
  RegularFile& operator=(RegularFile&&) = delete;
  ~RegularFile();

  int descriptor() const { return descriptor_; }
  int64_t bytes() const { return bytes_; }  // when it was opened
  // Fills `target` from the current position; short only at the end of the file.
  absl::StatusOr<int64_t> read(char* target, int64_t bytes) const;

 private:
  RegularFile(std::filesystem::path path, int descriptor);

  std::filesystem::path path_;
  int descriptor_;
  int64_t bytes_ = 0;
};

// The whole file; one of more than `max_bytes` is INVALID_ARGUMENT.
absl::StatusOr<std::string> read_file(const std::filesystem::path& path, int64_t max_bytes);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_FILE_H_
