// A file of named records that grows at its end. It is made whole or not at all; each record has a
// checksum, so that what a process wrote last before it was killed is either there or left out.
#ifndef KASCADE_SERVER_CORE_RECORD_FILE_H_
#define KASCADE_SERVER_CORE_RECORD_FILE_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/base/durable_file.h"

namespace kascade::core {

struct FileRecord {
  std::string name{};
  std::string bytes{};
};

// The largest file that is read.
inline constexpr int64_t kMaxRecordFileBytes = int64_t{1} << 30;

class RecordFile {
 public:
  // Makes or replaces the file, which only its owner may read, and opens it to append to it.
  static absl::StatusOr<std::unique_ptr<RecordFile>> create(const std::filesystem::path& file,
                                                            const std::vector<FileRecord>& records);
  // Puts the undamaged records into `records` and cuts off what follows them. DATA_LOSS: not even
  // the first one is undamaged, or the file is larger than kMaxRecordFileBytes; the file is left as
  // it is.
  static absl::StatusOr<std::unique_ptr<RecordFile>> open(const std::filesystem::path& file,
                                                          std::vector<FileRecord>& records);

  // A process that is killed loses nothing that was appended, a machine at most the last second.
  // After an error nothing more is appended, and each call returns that error.
  absl::Status append(const FileRecord& record);

 private:
  RecordFile(std::filesystem::path file, int descriptor)
      : file_(std::move(file)), descriptor_(descriptor) {}

  const std::filesystem::path file_;
  FileDescriptor descriptor_;
  absl::Time synced_ = absl::InfinitePast();
  absl::Status status_{};
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_RECORD_FILE_H_
