#include "engine/model/packed_file.h"

#include <charconv>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/checksum.h"

namespace kascade {
namespace {

constexpr std::string_view kKind = "Kascade packed weights ";
constexpr std::string_view kVersion = "1\n";
constexpr int64_t kPage = 4096;   // the header is filled up to a multiple of it
constexpr int64_t kAligned = 64;  // alignment of each matrix
constexpr size_t kChecksumDigits = 16;
constexpr int64_t kMostBytes = std::numeric_limits<int64_t>::max() / 2;

// Formats with a fixed width, so that the length of the header does not depend on the values in it.
std::string fixed(int64_t value) { return absl::StrCat(absl::Dec(value, absl::kZeroPad20)); }
std::string fixed_hex(uint64_t value) { return absl::StrCat(absl::Hex(value, absl::kZeroPad16)); }

std::span<const std::byte> bytes_of(std::string_view content, int64_t offset, int64_t count) {
  return {reinterpret_cast<const std::byte*>(content.data()) + offset, static_cast<size_t>(count)};
}

}  // namespace

PackedLayout::PackedLayout(std::string key, std::vector<PackedMatrix> matrices)
    : key_(std::move(key)), matrices_(std::move(matrices)), offsets_(matrices_.size()) {
  auto text_bytes = static_cast<int64_t>(preamble().size());
  for (size_t i = 0; i < matrices_.size(); ++i) {
    text_bytes += static_cast<int64_t>(line(i, 0).size());
  }
  header_bytes_ = (text_bytes + kPage - 1) / kPage * kPage;
  file_bytes_ = header_bytes_;
  for (size_t i = 0; i < matrices_.size(); ++i) {
    const int64_t bytes = matrices_[i].bytes;
    KASCADE_CHECK(bytes > 0 && bytes % kAligned == 0 && bytes <= kMostBytes - file_bytes_);
    offsets_[i] = file_bytes_;
    file_bytes_ += bytes;
  }
}

std::string PackedLayout::preamble() const {
  return absl::StrCat(std::string(kKind), std::string(kVersion), "key ", key_, "\nbytes ",
                      fixed(file_bytes_), "\n");
}

// stored_checksums() relies on the checksum being the end of the line.
std::string PackedLayout::line(size_t index, uint64_t checksum) const {
  const PackedMatrix& matrix = matrices_[index];
  return absl::StrCat(matrix.name, " ", matrix.form, " ", matrix.out_features, "x",
                      matrix.in_features, " at ", fixed(offsets_[index]), " bytes ", matrix.bytes,
                      " checksum ", fixed_hex(checksum), "\n");
}

std::string PackedLayout::header(std::span<const uint64_t> checksums) const {
  KASCADE_CHECK(checksums.size() == matrices_.size());
  std::string text = preamble();
  for (size_t i = 0; i < matrices_.size(); ++i) text += line(i, checksums[i]);
  text.resize(static_cast<size_t>(header_bytes_), '\n');
  return text;
}

std::vector<uint64_t> PackedLayout::stored_checksums(std::string_view content) const {
  std::vector<uint64_t> checksums(matrices_.size());
  size_t end = preamble().size();
  for (size_t i = 0; i < matrices_.size(); ++i) {
    end += line(i, 0).size();
    const char* digits = content.data() + end - 1 - kChecksumDigits;
    std::from_chars(digits, digits + kChecksumDigits, checksums[i], 16);
  }
  return checksums;
}

absl::Status PackedLayout::check(const std::string& file, std::string_view content) const {
  const std::string start = preamble();
  if (!content.starts_with(kKind)) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": is not a file of packed weights"));
  }
  if (!content.substr(kKind.size()).starts_with(kVersion)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": is of another version of packed weights than 1"));
  }
  if (static_cast<int64_t>(content.size()) != file_bytes_) {
    return absl::DataLossError(
        absl::StrCat(file, ": expected ", file_bytes_, " bytes, found ", content.size()));
  }
  if (!content.starts_with(start)) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": is of other weights: expected key ",
                                                   key_, " and ", file_bytes_, " bytes"));
  }
  const std::vector<uint64_t> checksums = stored_checksums(content);
  if (!content.starts_with(header(checksums))) {
    return absl::DataLossError(absl::StrCat(file, ": the header is damaged"));
  }
  for (size_t i = 0; i < matrices_.size(); ++i) {
    const uint64_t found = checksum(bytes_of(content, offsets_[i], matrices_[i].bytes));
    if (found == checksums[i]) continue;
    return absl::DataLossError(absl::StrCat(file, ": matrix ", matrices_[i].name,
                                            " is damaged: expected checksum ",
                                            fixed_hex(checksums[i]), ", found ", fixed_hex(found)));
  }
  return absl::OkStatus();
}

absl::StatusOr<PackedFile> PackedFile::open(const std::filesystem::path& file,
                                            PackedLayout layout) {
  auto mapped = MappedFile::open(file);
  if (!mapped.ok()) return mapped.status();
  if (auto status = layout.check(file.string(), mapped->content()); !status.ok()) return status;
  return PackedFile(*std::move(mapped), std::move(layout));
}

std::span<const std::byte> PackedFile::bytes(size_t index) const {
  return bytes_of(file_.content(), layout_.offset(index), layout_.matrix(index).bytes);
}

}  // namespace kascade
