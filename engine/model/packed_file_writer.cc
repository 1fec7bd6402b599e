#include "engine/model/packed_file_writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/checksum.h"

namespace kascade {
namespace {

namespace fs = std::filesystem;

absl::Status system_error(const fs::path& path, const std::string& action) {
  return absl::ErrnoToStatus(errno, absl::StrCat(path.string(), ": cannot ", action));
}

}  // namespace

// A file under a temporary name that only this process writes. The destructor removes it unless it
// was renamed.
class PackedFileWriter::PartialFile {
 public:
  explicit PartialFile(fs::path path) : path_(std::move(path)) {}
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;
  ~PartialFile() {
    if (owned_) unlink(path_.c_str());
    if (descriptor_ >= 0) close(descriptor_);
  }

  absl::Status lock();
  absl::Status reserve(int64_t bytes) const;
  // Writes at this position of the file.
  absl::Status write(const void* data, int64_t bytes, int64_t position) const;
  absl::Status rename_to(const fs::path& file);

 private:
  fs::path path_;
  int descriptor_ = -1;
  bool owned_ = false;
};

// Opens and locks the file. A file that a killed process left is reused. Between open() and flock()
// another process may have renamed the file that we opened; it is then in use and no longer has
// this name.
absl::Status PackedFileWriter::PartialFile::lock() {
  descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (descriptor_ < 0) return system_error(path_, "create");
  const bool locked = flock(descriptor_, LOCK_EX | LOCK_NB) == 0;
  if (!locked && errno != EWOULDBLOCK) return system_error(path_, "lock");
  struct stat opened{}, named{};
  owned_ = locked && fstat(descriptor_, &opened) == 0 && lstat(path_.c_str(), &named) == 0 &&
           opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
  if (!owned_) {
    return absl::AbortedError(absl::StrCat(path_.string(), ": another process is writing it"));
  }
  return ftruncate(descriptor_, 0) == 0 ? absl::OkStatus() : system_error(path_, "empty");
}

// Reserves disk space, so that a full disk is noticed at once. Not every file system supports this.
absl::Status PackedFileWriter::PartialFile::reserve(int64_t bytes) const {
  if (fallocate(descriptor_, 0, 0, bytes) == 0 || errno == EOPNOTSUPP) return absl::OkStatus();
  return system_error(path_, absl::StrCat("reserve ", bytes, " bytes"));
}

absl::Status PackedFileWriter::PartialFile::write(const void* data, int64_t bytes,
                                                  int64_t position) const {
  constexpr int64_t kPart = int64_t{64} << 20;
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const auto part = static_cast<size_t>(std::min<int64_t>(bytes, kPart));
    const ssize_t done = pwrite(descriptor_, from, part, position);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return system_error(path_, "write");
    from += done;
    position += done;
    bytes -= done;
  }
  return absl::OkStatus();
}

absl::Status PackedFileWriter::PartialFile::rename_to(const fs::path& file) {
  if (fsync(descriptor_) != 0) return system_error(path_, "sync");
  if (rename(path_.c_str(), file.c_str()) != 0) return system_error(file, "rename to");
  owned_ = false;
  const int folder = open(file.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return system_error(file.parent_path(), "open");
  const absl::Status status =
      fsync(folder) == 0 ? absl::OkStatus() : system_error(file.parent_path(), "sync");
  close(folder);
  return status;
}

PackedFileWriter::PackedFileWriter(fs::path file, PackedLayout layout,
                                   std::unique_ptr<PartialFile> partial)
    : file_(std::move(file)), layout_(std::move(layout)), partial_(std::move(partial)) {}
PackedFileWriter::PackedFileWriter(PackedFileWriter&& other) noexcept = default;
PackedFileWriter::~PackedFileWriter() = default;

absl::StatusOr<PackedFileWriter> PackedFileWriter::create(const fs::path& file,
                                                          PackedLayout layout) {
  std::error_code error;
  const fs::path folder = file.parent_path();
  fs::create_directories(folder, error);
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat(folder.string(), ": cannot create"));
  }
  auto partial = std::make_unique<PartialFile>(
      folder / absl::StrCat(".", file.filename().string(), ".partial"));
  if (auto status = partial->lock(); !status.ok()) return status;
  if (auto status = partial->reserve(layout.file_bytes()); !status.ok()) return status;
  return PackedFileWriter(file, std::move(layout), std::move(partial));
}

absl::Status PackedFileWriter::add(std::span<const std::byte> bytes) {
  const size_t index = checksums_.size();
  KASCADE_CHECK(index < layout_.size());
  KASCADE_CHECK(static_cast<int64_t>(bytes.size()) == layout_.matrix(index).bytes);
  checksums_.push_back(checksum(bytes));
  return partial_->write(bytes.data(), static_cast<int64_t>(bytes.size()), layout_.offset(index));
}

absl::Status PackedFileWriter::finish(const PackedSource& source) {
  KASCADE_CHECK(checksums_.size() == layout_.size());
  const std::string header = layout_.header({source.times, source.checksum(), checksums_});
  auto status = partial_->write(header.data(), static_cast<int64_t>(header.size()), 0);
  return status.ok() ? partial_->rename_to(file_) : status;
}

}  // namespace kascade
