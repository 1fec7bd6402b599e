// The file in which packed weights are kept from one start to the next: a text header that lists
// the matrices, followed by their bytes. The reader trusts nothing in it. The reader's PackedLayout
// determines the whole file except the file times, the checksums and the bytes that they protect,
// and the header is compared with it, so that no offset, size or shape is ever taken from the file.
#ifndef KASCADE_ENGINE_MODEL_PACKED_FILE_H_
#define KASCADE_ENGINE_MODEL_PACKED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
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
  std::string form{};  // PackedForm::name of its packed bytes
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t bytes = 0;  // a multiple of 64
};

// The unpacked weights that matrices were made from. A file remembers both members.
struct PackedSource {
  // A SHA-256 in hex that changes when one of the weight files is written. A file with the same
  // times is taken to be of the same weights.
  std::string times{};
  // The checksum of all weights. It is called only if a file has other times, which is the case for
  // a copy of the weights, because it reads all of them.
  std::function<uint64_t()> checksum{};
};

// The layout of a file: everything in it except times, checksums and the contents of the matrices.
class PackedLayout {
 public:
  // `key` identifies the weights that the matrices were made from. Names and forms must not contain
  // spaces; sizes are CHECKed.
  PackedLayout(std::string key, std::vector<PackedMatrix> matrices);

  const std::string& key() const { return key_; }
  size_t size() const { return matrices_.size(); }
  const PackedMatrix& matrix(size_t index) const { return matrices_[index]; }
  int64_t offset(size_t index) const { return offsets_[index]; }  // in the file; a multiple of 64
  int64_t header_bytes() const { return header_bytes_; }
  int64_t file_bytes() const { return file_bytes_; }

  // What the header holds besides the layout.
  struct Sums {
    std::string times{};               // PackedSource::times
    uint64_t weights = 0;              // the result of PackedSource::checksum
    std::vector<uint64_t> matrices{};  // the checksum of each matrix
  };
  // The first header_bytes() of the file.
  std::string header(const Sums& sums) const;

  // Checks that `content`, all of which is read, is a file of this layout that was made from these
  // weights. INVALID_ARGUMENT: a file of another kind, another version, or of other weights.
  // DATA_LOSS: a damaged file, or one of another size. Errors name `file` and what was found.
  absl::Status check(const std::string& file, std::string_view content,
                     const PackedSource& source) const;

 private:
  std::string preamble() const;
  std::string line(size_t index, uint64_t checksum) const;
  // What the file holds. Where it has no valid checksum, the result is one that header() formats
  // differently, so that the comparison fails.
  Sums stored_sums(std::string_view content) const;
  absl::Status check_header(const std::string& file, std::string_view content) const;

  std::string key_;
  std::vector<PackedMatrix> matrices_;
  std::vector<int64_t> offsets_{};
  int64_t header_bytes_ = 0;
  int64_t file_bytes_ = 0;
};

// A verified and mapped file; processes that map it share its memory.
class PackedFile {
 public:
  // NOT_FOUND if there is no file; otherwise see PackedLayout::check().
  static absl::StatusOr<PackedFile> open(const std::filesystem::path& file, PackedLayout layout,
                                         const PackedSource& source);

  size_t size() const { return layout_.size(); }
  const PackedMatrix& matrix(size_t index) const { return layout_.matrix(index); }
  std::span<const std::byte> bytes(size_t index) const;

 private:
  PackedFile(MappedFile file, PackedLayout layout)
      : file_(std::move(file)), layout_(std::move(layout)) {}

  MappedFile file_;
  PackedLayout layout_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_PACKED_FILE_H_
