#include "tools/convert/destination.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kascade::convert {
namespace {

namespace fs = std::filesystem;

absl::Status system_error(const fs::path& path, const std::string& action) {
  return absl::ErrnoToStatus(errno, absl::StrCat(path.string(), ": cannot ", action));
}

absl::Status to_status(const std::error_code& error, const fs::path& path,
                       const std::string& action) {
  if (!error) return absl::OkStatus();
  return absl::ErrnoToStatus(error.value(), absl::StrCat(path.string(), ": cannot ", action));
}

absl::Status check_replaceable(const fs::path& folder, bool force) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(folder, error))) return absl::OkStatus();
  if (!force) {
    return absl::AlreadyExistsError(
        absl::StrCat(folder.string(), ": exists (--force replaces a model folder)"));
  }
  if (fs::is_directory(folder, error) &&
      (fs::is_empty(folder, error) || fs::is_regular_file(folder / "config.json", error))) {
    return absl::OkStatus();
  }
  return absl::AlreadyExistsError(absl::StrCat(
      folder.string(), ": is not a model folder (expected a config.json in it); not replaced"));
}

absl::Status check_space(const fs::path& parent, int64_t needed_bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(parent, error);
  if (auto status = to_status(error, parent, "tell its free space"); !status.ok()) return status;
  if (space.available >= static_cast<uintmax_t>(needed_bytes)) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      parent.string(), ": needs ", needed_bytes, " bytes of free space, found ", space.available));
}

absl::Status sync_folder(const fs::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return system_error(folder, "open");
  absl::Status status;
  if (fsync(descriptor) != 0) status = system_error(folder, "sync");
  close(descriptor);
  return status;
}

// Creates or locks the temporary folder and empties it. Returns the locked descriptor.
absl::StatusOr<int> lock_partial(const fs::path& partial) {
  std::error_code error;
  fs::create_directory(partial, error);
  if (auto status = to_status(error, partial, "create"); !status.ok()) return status;
  const int descriptor = open(partial.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor < 0) return system_error(partial, "open");
  if (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    close(descriptor);
    return absl::FailedPreconditionError(
        absl::StrCat(partial.string(), ": another conversion is writing here"));
  }
  for (const auto& left : fs::directory_iterator(partial, error)) fs::remove_all(left, error);
  if (auto status = to_status(error, partial, "empty"); !status.ok()) {
    close(descriptor);
    return status;
  }
  return descriptor;
}

// "model/" names the same folder as "model".
fs::path without_slash(const fs::path& folder) {
  const fs::path normal = fs::absolute(folder).lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

}  // namespace

fs::path default_destination(const fs::path& source) {
  fs::path base = source.lexically_normal();
  // "model/" names the same folder as "model"; "." and ".." have a name only in full.
  if (!base.has_filename()) base = base.parent_path();
  if (!base.has_filename() || base.filename() == "." || base.filename() == "..") {
    base = without_slash(source);
  }
  std::error_code error;
  if (fs::is_regular_file(source, error)) base.replace_extension();
  return base += "-kascade";
}

Destination::Destination(fs::path folder, fs::path partial, int lock)
    : folder_(std::move(folder)), partial_(std::move(partial)), lock_(lock) {}

Destination::~Destination() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(partial_, ignored);
  close(lock_);
}

absl::StatusOr<std::unique_ptr<Destination>> Destination::create(const fs::path& folder, bool force,
                                                                 int64_t needed_bytes) {
  const fs::path target = without_slash(folder);
  if (auto status = check_replaceable(target, force); !status.ok()) return status;
  std::error_code error;
  fs::create_directories(target.parent_path(), error);
  if (auto status = to_status(error, target.parent_path(), "create"); !status.ok()) return status;
  if (auto status = check_space(target.parent_path(), needed_bytes); !status.ok()) return status;
  const fs::path partial =
      target.parent_path() / absl::StrCat(".", target.filename().string(), ".partial");
  const auto lock = lock_partial(partial);
  if (!lock.ok()) return lock.status();
  return std::unique_ptr<Destination>(new Destination(target, partial, *lock));
}

absl::Status Destination::commit() {
  if (auto status = sync_folder(partial_); !status.ok()) return status;
  std::error_code error;
  const fs::path old =
      folder_.parent_path() / absl::StrCat(".", folder_.filename().string(), ".replaced");
  const bool replaces = fs::exists(folder_, error);
  if (replaces) {
    fs::remove_all(old, error);
    fs::rename(folder_, old, error);
    if (auto status = to_status(error, folder_, "rename"); !status.ok()) return status;
  }
  fs::rename(partial_, folder_, error);
  if (auto status = to_status(error, partial_, "rename"); !status.ok()) {
    if (replaces) fs::rename(old, folder_, error);
    return status;
  }
  committed_ = true;
  if (replaces) fs::remove_all(old, error);
  return sync_folder(folder_.parent_path());
}

}  // namespace kascade::convert
