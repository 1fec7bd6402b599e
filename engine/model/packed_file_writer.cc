// Writing files of packed weights; see packed_file.h.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/checksum.h"
#include "engine/model/packed_file.h"

namespace kascade {
namespace {

namespace fs = std::filesystem;

absl::Status system_error(const fs::path& path, const std::string& action) {
  return absl::ErrnoToStatus(errno, absl::StrCat(path.string(), ": cannot ", action));
}

// A file under a temporary name that only this process writes. The destructor removes it unless it
// was renamed.
class PartialFile {
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
  absl::Status write(const void* data, int64_t bytes) const;
  absl::Status rename_to(const fs::path& file);

 private:
  fs::path path_;
  int descriptor_ = -1;
  bool owned_ = false;
};

// Opens and locks the file. A file that a killed process left is reused. Between open() and flock()
// another process may have renamed the file that we opened; it is then in use and no longer has
// this name.
absl::Status PartialFile::lock() {
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
absl::Status PartialFile::reserve(int64_t bytes) const {
  if (fallocate(descriptor_, 0, 0, bytes) == 0 || errno == EOPNOTSUPP) return absl::OkStatus();
  return system_error(path_, absl::StrCat("reserve ", bytes, " bytes"));
}

absl::Status PartialFile::write(const void* data, int64_t bytes) const {
  constexpr int64_t kPart = int64_t{64} << 20;
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done =
        ::write(descriptor_, from, static_cast<size_t>(std::min<int64_t>(bytes, kPart)));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return system_error(path_, "write");
    from += done;
    bytes -= done;
  }
  return absl::OkStatus();
}

absl::Status PartialFile::rename_to(const fs::path& file) {
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

}  // namespace

absl::Status write_packed_file(const fs::path& file, const PackedLayout& layout,
                               std::span<const std::span<const std::byte>> contents) {
  KASCADE_CHECK(contents.size() == layout.size());
  std::vector<uint64_t> checksums;
  for (size_t i = 0; i < contents.size(); ++i) {
    KASCADE_CHECK(static_cast<int64_t>(contents[i].size()) == layout.matrix(i).bytes);
    checksums.push_back(checksum(contents[i]));
  }
  std::error_code error;
  const fs::path folder = file.parent_path();
  fs::create_directories(folder, error);
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat(folder.string(), ": cannot create"));
  }
  PartialFile partial(folder / absl::StrCat(".", file.filename().string(), ".partial"));
  if (auto status = partial.lock(); !status.ok()) return status;
  if (auto status = partial.reserve(layout.file_bytes()); !status.ok()) return status;
  const std::string header = layout.header(checksums);
  absl::Status status = partial.write(header.data(), static_cast<int64_t>(header.size()));
  for (const auto& bytes : contents) {
    if (status.ok()) status = partial.write(bytes.data(), static_cast<int64_t>(bytes.size()));
  }
  return status.ok() ? partial.rename_to(file) : status;
}

}  // namespace kascade
