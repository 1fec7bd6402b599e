#include "engine/base/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace kascade {
namespace {

std::filesystem::path folder_of(const std::filesystem::path& file) {
  return file.has_parent_path() ? file.parent_path() : ".";
}

// The contents must be on disk before the new name is, since otherwise a crash could leave an empty
// file.
absl::Status write_and_rename(const std::string& bytes, const std::string& temporary,
                              FileDescriptor& out, const std::filesystem::path& file,
                              Readers readers) {
  const mode_t mode = readers == Readers::kAll ? 0644 : 0600;
  if (!write_all(out.get(), bytes)) return file_error("write", temporary);
  if (::fchmod(out.get(), mode) != 0) return file_error("set the mode of", temporary);
  if (::fsync(out.get()) != 0) return file_error("sync", temporary);
  if (!out.close()) return file_error("close", temporary);
  if (::rename(temporary.c_str(), file.c_str()) != 0) return file_error("replace", file);
  return absl::OkStatus();
}

absl::Status sync_folder(const std::filesystem::path& folder) {
  const FileDescriptor opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened.open() || ::fsync(opened.get()) != 0) return file_error("sync directory", folder);
  return absl::OkStatus();
}

}  // namespace

bool FileDescriptor::close() {
  const int descriptor = descriptor_;
  descriptor_ = -1;
  return descriptor < 0 || ::close(descriptor) == 0;
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

absl::Status file_error(const char* what, const std::filesystem::path& file) {
  const int error = errno;
  return absl::ErrnoToStatus(error, absl::StrCat("cannot ", what, " ", file.string()));
}

absl::Status write_durably(const std::string& bytes, const std::filesystem::path& file,
                           Readers readers) {
  const std::filesystem::path folder = folder_of(file);
  std::string temporary = (folder / ("." + file.filename().string() + ".XXXXXX")).string();
  FileDescriptor out(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!out.open()) return file_error("write beside", file);
  if (auto status = write_and_rename(bytes, temporary, out, file, readers); !status.ok()) {
    ::unlink(temporary.c_str());
    return status;
  }
  return sync_folder(folder);
}

absl::Status remove_durably(const std::filesystem::path& file) {
  if (::unlink(file.c_str()) == 0) return sync_folder(folder_of(file));
  // Without its folder a file is not there either.
  if (errno == ENOENT) return absl::OkStatus();
  return file_error("remove", file);
}

bool is_unfinished(const std::filesystem::path& file, const std::string& extension) {
  const std::string name = file.filename().string();
  return name.starts_with(".") && name.find(extension + ".") != std::string::npos;
}

}  // namespace kascade
