// Reading files that somebody else made: regular files only, so that a FIFO or a directory in a
// model folder is an error and not a hang. Used by the readers of this folder.
#ifndef KASCADE_ENGINE_MODEL_FILE_H_
#define KASCADE_ENGINE_MODEL_FILE_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

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

// A whole regular file mapped read-only. It must not be shortened meanwhile: the kernel answers a
// read past the new end with SIGBUS.
class MappedFile {
 public:
  // As RegularFile::open; an empty file is INVALID_ARGUMENT.
  static absl::StatusOr<MappedFile> open(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();

  // Aligned to a page.
  std::string_view content() const { return {static_cast<const char*>(memory_), bytes_}; }
  const std::byte* data() const { return static_cast<const std::byte*>(memory_); }
  int64_t bytes() const { return static_cast<int64_t>(bytes_); }

  // Gives back the memory that holds this part of the file, if it lies in this mapping, until
  // somebody reads it again.
  void release(const void* begin, int64_t bytes) const;

 private:
  MappedFile(void* memory, size_t bytes) : memory_(memory), bytes_(bytes) {}

  void* memory_;
  size_t bytes_;
};

// SHA-256 hex of a file's bytes.
absl::StatusOr<std::string> file_digest(const std::filesystem::path& file);

// The whole file; one of more than `max_bytes` is INVALID_ARGUMENT.
absl::StatusOr<std::string> read_file(const std::filesystem::path& path, int64_t max_bytes);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_FILE_H_
