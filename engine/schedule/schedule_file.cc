#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "engine/schedule/schedule.h"

namespace kascade {
namespace {

// A file descriptor that closes itself.
class File {
 public:
  explicit File(int descriptor) : descriptor_(descriptor) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { close(); }
  bool open() const { return descriptor_ >= 0; }
  int get() const { return descriptor_; }
  bool close() {
    const int descriptor = descriptor_;
    descriptor_ = -1;
    return descriptor < 0 || ::close(descriptor) == 0;
  }

 private:
  int descriptor_;
};

absl::Status failed(const char* what, const std::filesystem::path& file) {
  const int error = errno;
  return absl::ErrnoToStatus(error, absl::StrCat("cannot ", what, " ", file.string()));
}

absl::Status in_file(const std::filesystem::path& file, const absl::Status& status) {
  return {status.code(), absl::StrCat(file.string(), ": ", status.message())};
}

bool write_all(int descriptor, const std::string& bytes) {
  for (size_t written = 0; written < bytes.size();) {
    const ssize_t count = ::write(descriptor, bytes.data() + written, bytes.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    written += static_cast<size_t>(count);
  }
  return true;
}

// The contents must be on disk before the new name is, since otherwise a crash could leave an empty
// schedule.
absl::Status write_and_rename(const std::string& bytes, const std::string& temporary, File& out,
                              const std::filesystem::path& file) {
  constexpr mode_t kReadableByAll = 0644;
  if (!write_all(out.get(), bytes)) return failed("write", temporary);
  if (::fchmod(out.get(), kReadableByAll) != 0) return failed("set the mode of", temporary);
  if (::fsync(out.get()) != 0) return failed("sync", temporary);
  if (!out.close()) return failed("close", temporary);
  if (::rename(temporary.c_str(), file.c_str()) != 0) return failed("replace", file);
  return absl::OkStatus();
}

absl::Status sync_directory(const std::filesystem::path& directory) {
  File opened(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened.open() || ::fsync(opened.get()) != 0) return failed("sync directory", directory);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Schedule> load_schedule(const std::filesystem::path& file) {
  std::error_code error;
  const auto type = std::filesystem::status(file, error).type();
  if (type == std::filesystem::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat("no schedule file ", file.string()));
  }
  if (type != std::filesystem::file_type::regular) {
    return absl::InvalidArgumentError(absl::StrCat(file.string(), ": not a readable file"));
  }
  std::ifstream in(file, std::ios::binary);
  std::string bytes(kMaxScheduleBytes + 1, '\0');
  in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!in.is_open() || in.bad()) return failed("read", file);
  bytes.resize(static_cast<size_t>(in.gcount()));
  auto schedule = parse_schedule(bytes);
  if (!schedule.ok()) return in_file(file, schedule.status());
  return schedule;
}

absl::Status save_schedule(const Schedule& schedule, const std::filesystem::path& file) {
  const std::string bytes = to_json(schedule);
  if (auto read_back = parse_schedule(bytes); !read_back.ok()) {
    return in_file(file, read_back.status());
  }
  const std::filesystem::path directory = file.has_parent_path() ? file.parent_path() : ".";
  std::string temporary = (directory / ("." + file.filename().string() + ".XXXXXX")).string();
  File out(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!out.open()) return failed("write beside", file);
  if (auto status = write_and_rename(bytes, temporary, out, file); !status.ok()) {
    ::unlink(temporary.c_str());
    return status;
  }
  return sync_directory(directory);
}

}  // namespace kascade
