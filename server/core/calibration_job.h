// A calibration as a job: what is told of it, and what it consists of.
#ifndef KASCADE_SERVER_CORE_CALIBRATION_JOB_H_
#define KASCADE_SERVER_CORE_CALIBRATION_JOB_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/base/clock.h"
#include "engine/calibration/calibration.h"
#include "server/core/calibration_request.h"

namespace kascade::core {

class CalibrationFile;

// The job that a subscriber follows.
struct CalibrationStarted {
  std::string id{};
  bool attached = false;                     // the job was there already
  std::string data_digest{};                 // SHA-256 of the texts' tokens, hex
  int64_t tokens = 0;                        // of all texts
  std::optional<int64_t> held_out_tokens{};  // of the held-out texts, if there are any
};

struct CalibrationReport {
  CalibrationProgress progress{};
  // Of this stage; unset in its first half second and where nothing is left to estimate.
  std::optional<double> tokens_per_second{};
  std::optional<absl::Duration> remaining{};
  absl::Duration elapsed{};  // since the job began
};

struct CalibrationResult {
  std::shared_ptr<const Schedule> schedule{};    // not null
  std::vector<QualityCheckResult> candidates{};  // in the order in which they were tried
  // The measurements of CalibrationOutcome.
  std::vector<std::vector<double>> similarity{};
  std::vector<MeasuredLayer> layers{};
  std::optional<SimilarPair> most_similar_pair{};
  std::optional<AutoThreshold> auto_threshold{};
  std::string note{};        // what went otherwise than asked
  std::string warning{};     // savings_warning(); empty if the schedule is suspect
  bool activated = false;    // whether it is the active schedule
  std::string saved_file{};  // empty: kept in memory only

  bool passed() const { return schedule->quality.passed; }
};

enum class CalibrationState { kRunning, kSucceeded, kFailed, kCancelled };

// Where a job stands.
struct CalibrationSnapshot {
  std::string id{};
  CalibrationState state = CalibrationState::kRunning;
  absl::Time began{};
  absl::Time ended{};  // of a job that does not run any more
  CalibrationReport report{};
  absl::Status status{};                      // why it failed or was cancelled
  std::string schedule_id{};                  // of a job that succeeded
  std::optional<CalibrationResult> result{};  // likewise; not in lists
};

// Follows a job: started, any number of progress calls, ended. The calls come from several threads,
// never two at once after started().
class CalibrationSubscriber {
 public:
  virtual ~CalibrationSubscriber() = default;
  virtual void started(const CalibrationStarted& started) = 0;
  virtual void progress(const CalibrationReport& report) = 0;
  // `result` is null unless `status` is OK.
  virtual void ended(const absl::Status& status, const CalibrationResult* result) = 0;
};
using SubscriberPtr = std::shared_ptr<CalibrationSubscriber>;

// How a job ended.
struct CalibrationEnd {
  CalibrationState state = CalibrationState::kFailed;
  absl::Time ended{};
  absl::Status status{};
  CalibrationProgress progress{};             // the last one
  std::optional<CalibrationResult> result{};  // set with kSucceeded
};

// The job itself. CalibrationJobs guards what changes by its mutex.
struct CalibrationJob {
  // Constant once the job is known to others.
  CalibrationStarted started{};  // `attached` is not set
  absl::Time began = absl::Now();
  std::string active_before{};              // id of the schedule that was active then, or empty
  std::shared_ptr<CalibrationFile> file{};  // null: the job ends with the process

  bool continues = false;  // began in a process before this one

  std::atomic<bool> stop = false;

  CalibrationState state = CalibrationState::kRunning;
  bool cancelled = false;  // by a client, and not because the server goes down
  bool activate = true;
  CalibrationProgress progress{};
  absl::Time stage_begin = steady_now();
  int64_t stage_begin_tokens = 0;  // done before this process, in a stage that it continues
  absl::Time last_report{};
  absl::Time ended{};
  absl::Status status{};
  std::optional<CalibrationResult> result{};  // set with kSucceeded
  std::vector<SubscriberPtr> subscribers{};

  const std::string& id() const { return started.id; }
  bool running() const { return state == CalibrationState::kRunning; }
  void end(const CalibrationEnd& end);
  CalibrationReport report_now() const;
  CalibrationSnapshot snapshot() const;  // without the result
};
using CalibrationJobPtr = std::shared_ptr<CalibrationJob>;

// A job that has not begun.
CalibrationJobPtr make_job(const PreparedCalibration& prepared);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_CALIBRATION_JOB_H_
