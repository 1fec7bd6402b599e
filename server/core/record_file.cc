#include "server/core/record_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/byte_archive.h"
#include "engine/base/clock.h"
#include "engine/base/digest.h"

namespace kascade::core {
namespace {

constexpr size_t kChecksumBytes = 16;
constexpr size_t kHeadBytes = sizeof(uint64_t) + kChecksumBytes;
constexpr absl::Duration kSyncInterval = absl::Seconds(1);

template <typename Visitor, typename Record>
void visit_record(Visitor& visit, Record& record) {
  visit("name", record.name);
  visit("bytes", record.bytes);
}

// Length, checksum, contents.
std::string bytes_of(const FileRecord& record) {
  ByteWriter contents;
  visit_record(contents, record);
  const uint64_t size = contents.bytes().size();
  std::string bytes(sizeof size, '\0');
  std::memcpy(bytes.data(), &size, sizeof size);
  return absl::StrCat(bytes, digest(contents.bytes()).substr(0, kChecksumBytes), contents.bytes());
}

// The record that `bytes` begin with, which then begin behind it; unset if it is not whole.
std::optional<FileRecord> take_record(std::string_view& bytes) {
  uint64_t size = 0;
  if (bytes.size() < kHeadBytes) return std::nullopt;
  std::memcpy(&size, bytes.data(), sizeof size);
  if (size > bytes.size() - kHeadBytes) return std::nullopt;
  const std::string_view contents = bytes.substr(kHeadBytes, static_cast<size_t>(size));
  const std::string_view checksum = bytes.substr(sizeof size, kChecksumBytes);
  if (digest(contents).substr(0, kChecksumBytes) != checksum) return std::nullopt;
  FileRecord record;
  ByteReader reader(contents);
  visit_record(reader, record);
  if (!reader.complete()) return std::nullopt;
  bytes.remove_prefix(kHeadBytes + contents.size());
  return record;
}

absl::StatusOr<std::string> read_all(const std::filesystem::path& file) {
  std::error_code error;
  const auto size = std::filesystem::file_size(file, error);
  if (error) return absl::NotFoundError(absl::StrCat(file.string(), ": ", error.message()));
  if (size > kMaxRecordFileBytes) {
    return absl::DataLossError(absl::StrCat(file.string(), ": has ", size, " bytes, at most ",
                                            kMaxRecordFileBytes, " are read"));
  }
  std::string bytes(size, '\0');
  std::ifstream in(file, std::ios::binary);
  in.read(bytes.data(), static_cast<std::streamsize>(size));
  if (!in.is_open() || in.bad()) return file_error("read", file);
  bytes.resize(static_cast<size_t>(in.gcount()));
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RecordFile>> RecordFile::create(
    const std::filesystem::path& file, const std::vector<FileRecord>& records) {
  std::string bytes;
  for (const FileRecord& record : records) bytes += bytes_of(record);
  if (absl::Status status = write_durably(bytes, file, Readers::kOwner); !status.ok())
    return status;
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (descriptor < 0) return file_error("open", file);
  return std::unique_ptr<RecordFile>(new RecordFile(file, descriptor));
}

absl::StatusOr<std::unique_ptr<RecordFile>> RecordFile::open(const std::filesystem::path& file,
                                                             std::vector<FileRecord>& records) {
  const auto bytes = read_all(file);
  if (!bytes.ok()) return bytes.status();
  std::string_view rest = *bytes;
  records.clear();
  while (auto record = take_record(rest)) records.push_back(*std::move(record));
  if (records.empty()) return absl::DataLossError(absl::StrCat(file.string(), ": is damaged"));
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (descriptor < 0) return file_error("open", file);
  std::unique_ptr<RecordFile> opened(new RecordFile(file, descriptor));
  if (!rest.empty() && ::ftruncate(descriptor, static_cast<off_t>(bytes->size() - rest.size()))) {
    return file_error("cut", file);
  }
  return opened;
}

absl::Status RecordFile::append(const FileRecord& record) {
  if (!status_.ok()) return status_;
  if (!write_all(descriptor_.get(), bytes_of(record))) {
    return status_ = file_error("append to", file_);
  }
  const absl::Time now = steady_now();
  if (now - synced_ < kSyncInterval) return absl::OkStatus();
  synced_ = now;
  if (::fdatasync(descriptor_.get()) != 0) status_ = file_error("sync", file_);
  return status_;
}

}  // namespace kascade::core
