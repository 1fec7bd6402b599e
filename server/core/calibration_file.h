// Calibrations on disk: one file per job. While a job runs, its file holds what was asked and what
// its runs gave so far, from which a later process continues it; when it has ended, how it ended.
#ifndef KASCADE_SERVER_CORE_CALIBRATION_FILE_H_
#define KASCADE_SERVER_CORE_CALIBRATION_FILE_H_

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/calibration/run_results.h"
#include "engine/engine.h"
#include "server/core/calibration_job.h"
#include "server/core/record_file.h"

namespace kascade::core {

struct StoredCalibration;

// Thread-safe, but for what find() returns, which is the calibration's.
class CalibrationFile final : public RunResults {
 public:
  // Makes the file of a job that begins.
  static absl::StatusOr<std::shared_ptr<CalibrationFile>> create(
      const std::filesystem::path& directory, const CalibrationJob& job,
      const PreparedCalibration& prepared, const Engine& engine);
  // The jobs in `directory`, whose half-written files are deleted. Jobs of other models and files
  // of other names are left out with a warning in the log; a job whose file is damaged has failed.
  static std::vector<StoredCalibration> load_all(const std::filesystem::path& directory,
                                                 const Engine& engine);

  // Whoever attached to the job wants its schedule activated.
  void keep_activate();
  const std::string* find(const std::string& key) const override;
  // After an error nothing more is kept, with one warning in the log.
  void keep(const std::string& key, std::string result) override;
  // Replaces request and results. `job` is as it began.
  absl::Status end(const CalibrationJob& job, const CalibrationEnd& end);
  absl::Status remove();

 private:
  CalibrationFile(std::filesystem::path file, const Engine& engine)
      : file_(std::move(file)), engine_(engine) {}
  static absl::StatusOr<StoredCalibration> load(const std::filesystem::path& file,
                                                const Engine& engine);
  void append(const FileRecord& record);  // mutex_ held

  const std::filesystem::path file_;
  const Engine& engine_;
  mutable std::mutex mutex_;               // guards what follows
  std::unique_ptr<RecordFile> records_{};  // null: nothing more is kept
  std::map<std::string, std::string> results_{};
};

// What a file holds.
struct StoredCalibration {
  CalibrationJobPtr job{};                        // its file is set
  std::optional<PreparedCalibration> prepared{};  // of a job that had not ended
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_CALIBRATION_FILE_H_
