// Calibrations as jobs that outlive the requests that started them: at most one runs, on a thread
// of its own; any number of subscribers follow it.
#ifndef KASCADE_SERVER_CORE_CALIBRATION_JOBS_H_
#define KASCADE_SERVER_CORE_CALIBRATION_JOBS_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/calibration/calibration.h"
#include "server/core/calibration_request.h"
#include "server/core/schedules.h"
#include "server/metrics/metrics.h"

namespace kascade::core {

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

class CalibrationJobs {
 public:
  // All references outlive the jobs. `keep_alive`: a subscriber gets a report at least this often.
  CalibrationJobs(Engine& engine, Schedules& schedules, metrics::ServerMetrics& metrics,
                  absl::Duration keep_alive = absl::Seconds(5));
  ~CalibrationJobs();

  // Starts the job, or attaches to the same one. ABORTED naming the running id: another one runs.
  absl::Status start(PreparedCalibration job, const SubscriberPtr& subscriber);
  // NOT_FOUND: no job has the id; so it is with the functions below.
  absl::Status watch(const std::string& id, const SubscriberPtr& subscriber);
  // The subscriber gets no further calls; if no other is left and `cancel`, the job is cancelled.
  void unsubscribe(const std::string& id, const CalibrationSubscriber* subscriber, bool cancel);
  // Stops the job; the subscriber is told when it has ended.
  absl::Status cancel(const std::string& id, const SubscriberPtr& subscriber);

  absl::StatusOr<CalibrationSnapshot> get(const std::string& id) const;
  std::vector<CalibrationSnapshot> list() const;  // newest first, without results

  // Cancels what runs, waits for its end and starts nothing more.
  void shutdown();

 private:
  struct Job;
  using JobPtr = std::shared_ptr<Job>;

  // Finds or makes the job; `attached` tells which.
  absl::StatusOr<JobPtr> find_or_create(const PreparedCalibration& prepared, bool& attached);
  JobPtr find(const std::string& id) const;  // mutex_ held
  // Tells the subscriber where the job stands; `activate_it` makes a finished job's schedule
  // active.
  void subscribe(const JobPtr& job, const SubscriberPtr& subscriber, bool attached,
                 bool activate_it);
  void launch(const JobPtr& job, PreparedCalibration prepared);
  void run(const JobPtr& job, const PreparedCalibration& prepared);
  void report(const JobPtr& job, const CalibrationProgress& progress);
  void succeed(const JobPtr& job, CalibrationOutcome outcome);
  void end(const JobPtr& job, const absl::Status& status, std::optional<CalibrationResult> result);
  // Sets result.activated, after activating a schedule that passed, by `activate`, if that is
  // `wanted`.
  using Activate = std::function<absl::Status(const std::shared_ptr<const Schedule>&)>;
  void activate(bool wanted, CalibrationResult& result, const Activate& activate);
  void keep_alive_loop();

  Engine& engine_;
  Schedules& schedules_;
  metrics::ServerMetrics& metrics_;
  const absl::Duration keep_alive_;

  mutable std::mutex mutex_;      // guards jobs_, what they hold, and stopping_
  std::condition_variable wake_;  // the keep-alive thread
  std::deque<JobPtr> jobs_;       // newest first
  bool stopping_ = false;

  Measurement measured_{};  // the worker's

  std::mutex worker_mutex_;  // guards worker_
  std::thread worker_;
  std::thread keep_alive_thread_;
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_CALIBRATION_JOBS_H_
