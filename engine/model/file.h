// Reading files from users. Only regular files are accepted, so that a FIFO or a directory in a
// model folder is an error and does not block.
#ifndef KASCADE_ENGINE_MODEL_FILE_H_
#define KASCADE_ENGINE_MODEL_FILE_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace kascade {

// An open descriptor of a regular file, closed by the destructor.
class RegularFile {
 public:
  // NOT_FOUND if there is no such file, INVALID_ARGUMENT if it is not a regular one.
  static absl::StatusOr<RegularFile> open(const std::filesystem::path& path);
  RegularFile(RegularFile&& other) noexcept;
  RegularFile& operator=(RegularFile&&) = delete;
  ~RegularFile();

  int descriptor() const { return descriptor_; }
  int64_t bytes() const { return bytes_; }  // size when the file was opened
  // Reads `bytes` bytes from the current position; returns fewer only at the end of the file.
  absl::StatusOr<int64_t> read(char* target, int64_t bytes) const;

 private:
  RegularFile(std::filesystem::path path, int descriptor);

  std::filesystem::path path_;
  int descriptor_;
  int64_t bytes_ = 0;
};

// A whole regular file mapped read-only. The file must not be shortened while it is mapped: reading
// past the new end raises SIGBUS.
class MappedFile {
 public:
  // Like RegularFile::open(); an empty file is INVALID_ARGUMENT.
  static absl::StatusOr<MappedFile> open(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();

  // The bytes of the file, aligned to a page.
  std::string_view content() const { return {static_cast<const char*>(memory_), bytes_}; }
  const std::byte* data() const { return static_cast<const std::byte*>(memory_); }
  int64_t bytes() const { return static_cast<int64_t>(bytes_); }

  // Releases the physical memory that holds this part of the file, if it lies in this mapping; it
  // is read from disk again when it is next used.
  void release(const void* begin, int64_t bytes) const;

 private:
  MappedFile(void* memory, size_t bytes) : memory_(memory), bytes_(bytes) {}

  void* memory_;
  size_t bytes_;
};

// SHA-256 in hex of the file's bytes.
absl::StatusOr<std::string> file_digest(const std::filesystem::path& file);

// Reads the whole file; a file of more than `max_bytes` bytes is INVALID_ARGUMENT.
absl::StatusOr<std::string> read_file(const std::filesystem::path& path, int64_t max_bytes);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_FILE_H_
