// Notices when the contents of files have changed, such as certificates that are renewed.
#ifndef KASCADE_SERVER_SECURITY_FILE_WATCH_H_
#define KASCADE_SERVER_SECURITY_FILE_WATCH_H_

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace kascade::security {

// How often the server looks at the files.
inline constexpr absl::Duration kFileWatchInterval = absl::Milliseconds(500);

// The whole file, at most 4 MiB. The error is "FLAG FILE: reason", as the flag named the file.
absl::StatusOr<std::string> read_named_file(const std::string& flag,
                                            const std::filesystem::path& file);

class FileWatch {
 public:
  // The contents at this moment are those that count as known.
  FileWatch(std::vector<std::filesystem::path> files, absl::Duration interval);
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;
  ~FileWatch();

  // From now on calls `changed` on a thread of its own, after each change of the contents (also
  // when a file can no longer be read). Files that belong together are written one after the other;
  // therefore a change counts once the contents were the same at two looks in a row. To be called
  // once.
  void start(std::function<void()> changed);
  // Looks at once, and calls `changed` on this thread if the contents differ from those that are
  // known. After start(). Thread-safe.
  void look();

 private:
  std::string contents_digest() const;  // of all files; differs if one cannot be read
  void watch(const std::stop_token& stop);

  const std::vector<std::filesystem::path> files_;
  const absl::Duration interval_;
  std::function<void()> changed_{};
  std::mutex mutex_;   // held during a look, and so during `changed`
  std::string known_;  // contents_digest() that `changed` was last called for
  std::condition_variable_any wake_;
  std::jthread thread_;  // last: it uses all others
};

}  // namespace kascade::security

#endif  // KASCADE_SERVER_SECURITY_FILE_WATCH_H_
