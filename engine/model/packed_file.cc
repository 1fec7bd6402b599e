#include "engine/model/packed_file.h"

#include <charconv>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/checksum.h"

namespace kascade {
namespace {

constexpr std::string_view kKind = "Kascade packed weights ";
constexpr std::string_view kVersion = "2\n";
constexpr int64_t kPage = 4096;   // the header is filled up to a multiple of it
constexpr int64_t kAligned = 64;  // alignment of each matrix
constexpr size_t kChecksumDigits = 16;
constexpr size_t kTimesDigits = 64;
constexpr int64_t kMostBytes = std::numeric_limits<int64_t>::max() / 2;

// Formats with a fixed width, so that the length of the header does not depend on the values in it.
std::string fixed(int64_t value) { return absl::StrCat(absl::Dec(value, absl::kZeroPad20)); }
std::string fixed_hex(uint64_t value) { return absl::StrCat(absl::Hex(value, absl::kZeroPad16)); }

// The line with what the file remembers of the unpacked weights. Its length does not depend on
// them.
constexpr std::string_view kTimes = "weights of times ";
std::string source_line(std::string_view times, uint64_t checksum) {
  return absl::StrCat(std::string(kTimes), std::string(times), " checksum ", fixed_hex(checksum),
                      "\n");
}
const size_t kSourceLineBytes = source_line(std::string(kTimesDigits, '0'), 0).size();

// The checksum that ends at `end`, which is the end of a line.
uint64_t checksum_before(std::string_view content, size_t end) {
  uint64_t checksum = 0;
  const char* digits = content.data() + end - 1 - kChecksumDigits;
  std::from_chars(digits, digits + kChecksumDigits, checksum, 16);
  return checksum;
}

std::span<const std::byte> bytes_of(std::string_view content, int64_t offset, int64_t count) {
  return {reinterpret_cast<const std::byte*>(content.data()) + offset, static_cast<size_t>(count)};
}

}  // namespace

PackedLayout::PackedLayout(std::string key, std::vector<PackedMatrix> matrices)
    : key_(std::move(key)), matrices_(std::move(matrices)), offsets_(matrices_.size()) {
  auto text_bytes = static_cast<int64_t>(preamble().size() + kSourceLineBytes);
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

// stored_sums() relies on the checksum being the end of the line.
std::string PackedLayout::line(size_t index, uint64_t checksum) const {
  const PackedMatrix& matrix = matrices_[index];
  return absl::StrCat(matrix.name, " ", matrix.form, " ", matrix.out_features, "x",
                      matrix.in_features, " at ", fixed(offsets_[index]), " bytes ", matrix.bytes,
                      " checksum ", fixed_hex(checksum), "\n");
}

std::string PackedLayout::header(const Sums& sums) const {
  KASCADE_CHECK(sums.matrices.size() == matrices_.size());
  KASCADE_CHECK(sums.times.size() == kTimesDigits);
  std::string text = preamble() + source_line(sums.times, sums.weights);
  for (size_t i = 0; i < matrices_.size(); ++i) text += line(i, sums.matrices[i]);
  text.resize(static_cast<size_t>(header_bytes_), '\n');
  return text;
}

PackedLayout::Sums PackedLayout::stored_sums(std::string_view content) const {
  Sums sums;
  size_t end = preamble().size();
  sums.times = std::string(content.substr(end + kTimes.size(), kTimesDigits));
  end += kSourceLineBytes;
  sums.weights = checksum_before(content, end);
  for (size_t i = 0; i < matrices_.size(); ++i) {
    end += line(i, 0).size();
    sums.matrices.push_back(checksum_before(content, end));
  }
  return sums;
}

absl::Status PackedLayout::check_header(const std::string& file, std::string_view content) const {
  if (!content.starts_with(kKind)) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": is not a file of packed weights"));
  }
  if (!content.substr(kKind.size()).starts_with(kVersion)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": is of another version of packed weights than 2"));
  }
  if (static_cast<int64_t>(content.size()) != file_bytes_) {
    return absl::DataLossError(
        absl::StrCat(file, ": expected ", file_bytes_, " bytes, found ", content.size()));
  }
  if (!content.starts_with(preamble())) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": is of other weights: expected key ",
                                                   key_, " and ", file_bytes_, " bytes"));
  }
  if (!content.starts_with(header(stored_sums(content)))) {
    return absl::DataLossError(absl::StrCat(file, ": the header is damaged"));
  }
  return absl::OkStatus();
}

absl::Status PackedLayout::check(const std::string& file, std::string_view content,
                                 const PackedSource& source) const {
  if (auto status = check_header(file, content); !status.ok()) return status;
  const Sums stored = stored_sums(content);
  if (stored.times != source.times) {
    if (const uint64_t found = source.checksum(); found != stored.weights) {
      return absl::InvalidArgumentError(absl::StrCat(
          file, ": is of other weights: those of the checkpoint have checksum ", fixed_hex(found),
          ", the packed ones come from ", fixed_hex(stored.weights)));
    }
  }
  for (size_t i = 0; i < matrices_.size(); ++i) {
    const uint64_t found = checksum(bytes_of(content, offsets_[i], matrices_[i].bytes));
    if (found == stored.matrices[i]) continue;
    return absl::DataLossError(
        absl::StrCat(file, ": matrix ", matrices_[i].name, " is damaged: expected checksum ",
                     fixed_hex(stored.matrices[i]), ", found ", fixed_hex(found)));
  }
  return absl::OkStatus();
}

absl::StatusOr<PackedFile> PackedFile::open(const std::filesystem::path& file, PackedLayout layout,
                                            const PackedSource& source) {
  auto mapped = MappedFile::open(file);
  if (!mapped.ok()) return mapped.status();
  if (auto status = layout.check(file.string(), mapped->content(), source); !status.ok())
    return status;
  return PackedFile(*std::move(mapped), std::move(layout));
}

std::span<const std::byte> PackedFile::bytes(size_t index) const {
  return bytes_of(file_.content(), layout_.offset(index), layout_.matrix(index).bytes);
}

}  // namespace kascade
