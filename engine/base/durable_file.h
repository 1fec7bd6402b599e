// Files that are whole whenever the process or the machine stops: they are written under another
// name in the same folder, synced and renamed.
#ifndef KASCADE_ENGINE_BASE_DURABLE_FILE_H_
#define KASCADE_ENGINE_BASE_DURABLE_FILE_H_

#include <filesystem>
#include <string>

#include "absl/status/status.h"

namespace kascade {

// A file descriptor that closes itself.
class FileDescriptor {
 public:
  explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { close(); }
  bool open() const { return descriptor_ >= 0; }
  int get() const { return descriptor_; }
  bool close();  // false: what was written may be lost

 private:
  int descriptor_;
};

// Writes all of `bytes`; false leaves the reason in errno.
bool write_all(int descriptor, const std::string& bytes);

// The status of errno: "cannot WHAT FILE: reason".
absl::Status file_error(const char* what, const std::filesystem::path& file);

enum class Readers { kAll, kOwner };

// Makes or replaces `file`. After an error the old file, if any, is unchanged,
// unless all went well but the sync of the folder.
absl::Status write_durably(const std::string& bytes, const std::filesystem::path& file,
                           Readers readers = Readers::kAll);
// Removes `file`; OK if there is none.
absl::Status remove_durably(const std::filesystem::path& file);

// Whether write_durably() makes files of this name on the way to one whose name ends in
// `extension`, such as ".json". A process that is killed leaves them behind.
bool is_unfinished(const std::filesystem::path& file, const std::string& extension);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BASE_DURABLE_FILE_H_
