#include "engine/model/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"

namespace kascade {
namespace {

absl::Status system_error(const std::filesystem::path& path, const char* action) {
  const int code = errno;
  const std::string message = absl::StrCat(path.string(), ": cannot ", action);
  if (code == ENOTDIR) return absl::NotFoundError(message);
  return absl::ErrnoToStatus(code, message);
}

}  // namespace

RegularFile::RegularFile(std::filesystem::path path, int descriptor)
    : path_(std::move(path)), descriptor_(descriptor) {}

RegularFile::RegularFile(RegularFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      bytes_(other.bytes_) {}

RegularFile::~RegularFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::StatusOr<RegularFile> RegularFile::open(const std::filesystem::path& path) {
  // Without O_NONBLOCK, opening a FIFO waits for a writer.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return system_error(path, "open");
  RegularFile file(path, descriptor);
  struct stat info{};
  if (fstat(descriptor, &info) != 0) return system_error(path, "stat");
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": is not a regular file"));
  }
  file.bytes_ = info.st_size;
  return file;
}

absl::StatusOr<int64_t> RegularFile::read(char* target, int64_t bytes) const {
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t got = ::read(descriptor_, target + done, static_cast<size_t>(bytes - done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(path_, "read");
    if (got == 0) break;
    done += got;
  }
  return done;
}

absl::StatusOr<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const auto file = RegularFile::open(path);
  if (!file.ok()) return file.status();
  if (file->bytes() == 0)
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": is empty"));
  const auto bytes = static_cast<size_t>(file->bytes());
  void* memory = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file->descriptor(), 0);
  if (memory == MAP_FAILED)
    return system_error(path, absl::StrCat("map ", bytes, " bytes").c_str());
  return MappedFile(memory, bytes);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

MappedFile::~MappedFile() {
  if (memory_ != nullptr) munmap(memory_, bytes_);
}

void MappedFile::release(const void* begin, int64_t bytes) const {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto* at = static_cast<const std::byte*>(begin);
  if (std::less<>()(at, data()) || std::less<>()(data() + bytes_, at + bytes)) return;
  // Pages that also hold bytes outside this part stay.
  const size_t first = (static_cast<size_t>(at - data()) + page - 1) / page * page;
  const size_t last = static_cast<size_t>(at + bytes - data()) / page * page;
  if (first < last) madvise(static_cast<std::byte*>(memory_) + first, last - first, MADV_DONTNEED);
}

absl::StatusOr<std::string> file_digest(const std::filesystem::path& file) {
  const auto opened = RegularFile::open(file);
  if (!opened.ok()) return opened.status();
  Sha256 hash;
  std::vector<char> part(1 << 20);
  while (true) {
    const auto got = opened->read(part.data(), static_cast<int64_t>(part.size()));
    if (!got.ok()) return got.status();
    if (*got == 0) return hash.hex();
    hash.add(part.data(), *got);
  }
}

absl::StatusOr<std::string> read_file(const std::filesystem::path& path, int64_t max_bytes) {
  auto file = RegularFile::open(path);
  if (!file.ok()) return file.status();
  if (file->bytes() > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": expected at most ", max_bytes,
                                                   " bytes, found ", file->bytes()));
  }
  std::string text(static_cast<size_t>(file->bytes()), '\0');
  const auto got = file->read(text.data(), file->bytes());
  if (!got.ok()) return got.status();
  text.resize(static_cast<size_t>(*got));
  return text;
}

}  // namespace kascade
