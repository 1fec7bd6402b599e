#include "server/security/file_watch.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"

namespace kascade::security {
namespace {

constexpr size_t kMaxFileBytes = size_t{4} << 20;

absl::Status unreadable(const std::string& flag, const std::filesystem::path& file,
                        const std::string& reason) {
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", file.string(), ": ", reason));
}

}  // namespace

absl::StatusOr<std::string> read_named_file(const std::string& flag,
                                            const std::filesystem::path& file) {
  std::error_code error;
  if (std::filesystem::is_directory(file, error)) return unreadable(flag, file, "is a folder");
  std::ifstream in(file, std::ios::binary);
  if (!in) return unreadable(flag, file, absl::StrCat("cannot be read: ", std::strerror(errno)));
  std::string content;
  std::array<char, 1 << 14> part{};
  while (in.read(part.data(), part.size()), in.gcount() > 0) {
    content.append(part.data(), static_cast<size_t>(in.gcount()));
    if (content.size() > kMaxFileBytes) {
      return unreadable(flag, file, absl::StrCat("is larger than ", kMaxFileBytes, " bytes"));
    }
  }
  if (in.bad()) return unreadable(flag, file, "cannot be read");
  return content;
}

FileWatch::FileWatch(std::vector<std::filesystem::path> files, absl::Duration interval)
    : files_(std::move(files)), interval_(interval), known_(contents_digest()) {}

FileWatch::~FileWatch() = default;  // the thread is asked to stop, and joined

void FileWatch::start(std::function<void()> changed) {
  changed_ = std::move(changed);
  thread_ = std::jthread([this](const std::stop_token& stop) { watch(stop); });
}

void FileWatch::look() {
  const std::lock_guard lock(mutex_);
  std::string now = contents_digest();
  if (now == known_) return;
  known_ = std::move(now);
  changed_();
}

std::string FileWatch::contents_digest() const {
  Sha256 hash;
  for (const std::filesystem::path& file : files_) {
    const auto content = read_named_file("", file);
    hash.add(content.ok() ? absl::StrCat("+", digest(*content)) : "-");
  }
  return hash.hex();
}

void FileWatch::watch(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  std::string last = known_;
  while (!stop.stop_requested()) {
    wake_.wait_for(lock, stop, absl::ToChronoMilliseconds(interval_), [] { return false; });
    if (stop.stop_requested()) return;
    std::string now = contents_digest();
    const bool settled = now == std::exchange(last, now);
    if (!settled || now == known_) continue;
    known_ = std::move(now);
    changed_();
  }
}

}  // namespace kascade::security
