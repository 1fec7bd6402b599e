// The file that keeps packed weights from one start to the next: a text that names the matrices,
// then their bytes. Nothing in it is believed. All of it but the checksums and what they are of
// follows from the PackedPlan that the reader brings along and is compared with it, so that no
// offset, size or shape ever comes from the file.
#ifndef KASCADE_ENGINE_MODEL_PACKED_FILE_H_
#define KASCADE_ENGINE_MODEL_PACKED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/file.h"

namespace kascade {

struct PackedMatrix {
  std::string name{};  // "layers.0.qkv"
  std::string form{};  // how it is packed: PackedForm::name
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t bytes = 0;  // a multiple of 64
};

// What a file must be to the byte, but for the matrices' contents.
class PackedPlan {
 public:
  // `key` says what the matrices were made of. Names and forms have no spaces; CHECKs the sizes.
  PackedPlan(std::string key, std::vector<PackedMatrix> matrices);

  size_t size() const { return matrices_.size(); }
  const PackedMatrix& matrix(size_t index) const { return matrices_[index]; }
  int64_t offset(size_t index) const { return offsets_[index]; }  // in the file; of 64 bytes
  int64_t header_bytes() const { return header_bytes_; }
  int64_t file_bytes() const { return file_bytes_; }

  // The first header_bytes() of the file.
  std::string header(std::span<const uint64_t> checksums) const;

  // Whether `content` is such a file; INVALID_ARGUMENT (another kind or version, or a
  // model of the same size) and DATA_LOSS (damaged, cut short or another size) name `file` and what
  // was found. Reads all of it.
  absl::Status check(const std::string& file, std::string_view content) const;

 private:
  std::string preamble() const;
  std::string line(size_t index, uint64_t checksum) const;
  // As the file has them; a place that holds no checksum gives one that header() writes otherwise.
  std::vector<uint64_t> stored_checksums(std::string_view content) const;

  std::string key_;
  std::vector<PackedMatrix> matrices_;
  std::vector<int64_t> offsets_{};
  int64_t header_bytes_ = 0;
  int64_t file_bytes_ = 0;
};

// A verified file, mapped; processes that map it share its memory.
class PackedFile {
 public:
  // NOT_FOUND if there is none; see PackedPlan::check().
  static absl::StatusOr<PackedFile> open(const std::filesystem::path& file, PackedPlan plan);

  size_t size() const { return plan_.size(); }
  const PackedMatrix& matrix(size_t index) const { return plan_.matrix(index); }
  std::span<const std::byte> bytes(size_t index) const;

 private:
  PackedFile(MappedFile file, PackedPlan plan) : file_(std::move(file)), plan_(std::move(plan)) {}

  MappedFile file_;
  PackedPlan plan_;
};

// Writes such a file beside its place and renames it, so that it is complete or not there, also
// after a loss of power. Makes the folder if need be. `contents` are the matrices' bytes in the
// plan's order, CHECKed. ABORTED if another process is writing the same file.
absl::Status write_packed_file(const std::filesystem::path& file, const PackedPlan& plan,
                               std::span<const std::span<const std::byte>> contents);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_PACKED_FILE_H_
