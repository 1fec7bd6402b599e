// Calibrations as jobs that outlive the requests that started them and, with a directory, the
// process: at most one runs, on a thread of its own; any number of subscribers follow it.
#ifndef KASCADE_SERVER_CORE_CALIBRATION_JOBS_H_
#define KASCADE_SERVER_CORE_CALIBRATION_JOBS_H_

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/calibration/calibration.h"
#include "server/core/calibration_job.h"
#include "server/core/calibration_request.h"
#include "server/core/memory_budget.h"
#include "server/core/schedules.h"
#include "server/metrics/metrics.h"

namespace kascade::core {

// The most jobs that are kept beside the one that runs.
inline constexpr size_t kMaxEndedJobs = 32;

// start() and remove() write files; a front end calls them on threads that may wait.
class CalibrationJobs {
 public:
  // All references outlive the jobs. `keep_alive`: a subscriber gets a report at least this often.
  CalibrationJobs(Engine& engine, Schedules& schedules, metrics::ServerMetrics& metrics,
                  absl::Duration keep_alive = absl::Seconds(5));
  ~CalibrationJobs();

  // To be called before all others: keeps the jobs in `directory` (made if missing) from now on,
  // reads those of earlier processes and continues the one that was interrupted. If the directory
  // cannot be written, jobs end with the process, and the log has a warning. `memory` holds the
  // texts of the job that continues, and outlives the jobs.
  void open(const std::filesystem::path& directory, MemoryBudget& memory);

  // Starts the job, or attaches to the same one if it runs, or if it has ended with a schedule that
  // is still held and no fresh job is asked for. ABORTED naming the running id: another one runs.
  absl::Status start(PreparedCalibration job, const SubscriberPtr& subscriber);
  // NOT_FOUND: no job has the id; so it is with the functions below.
  absl::Status watch(const std::string& id, const SubscriberPtr& subscriber);
  // The subscriber gets no further calls; if no other is left and `cancel`, the job is cancelled.
  void unsubscribe(const std::string& id, const CalibrationSubscriber* subscriber, bool cancel);
  // Stops the job; the subscriber is told when it has ended.
  absl::Status cancel(const std::string& id, const SubscriberPtr& subscriber);
  // Forgets a job that has ended; its schedule stays. FAILED_PRECONDITION: it runs. INTERNAL: its
  // file cannot be removed; the job is still there.
  absl::Status remove(const std::string& id);

  absl::StatusOr<CalibrationSnapshot> get(const std::string& id) const;
  std::vector<CalibrationSnapshot> list() const;  // newest first, without results

  // Stops what runs, waits for its end and starts nothing more. A job with a file is continued by
  // the next process, others are cancelled.
  void shutdown();

 private:
  using JobPtr = CalibrationJobPtr;

  // Finds or makes the job; `attached` tells which.
  absl::StatusOr<JobPtr> find_or_create(const PreparedCalibration& prepared, bool& attached);
  // Whether a request gets this job rather than one that begins anew. mutex_ held.
  bool may_attach(const CalibrationJob& job, const PreparedCalibration& prepared) const;
  JobPtr find(const std::string& id) const;  // mutex_ held
  // Forgets the oldest jobs beyond the limit and returns them. mutex_ held.
  std::vector<JobPtr> drop_oldest();
  // Makes the job's file and hands the job to the worker.
  void launch(const JobPtr& job, PreparedCalibration prepared);
  void hand_to_worker(const JobPtr& job, PreparedCalibration prepared);
  // Continues an interrupted job if `memory` has room for its texts.
  void resume(const JobPtr& job, PreparedCalibration prepared, MemoryBudget& memory);
  // Tells the subscriber where the job stands; `activate_it` makes a finished job's schedule
  // active.
  void subscribe(const JobPtr& job, const SubscriberPtr& subscriber, bool attached,
                 bool activate_it);
  void work_loop();
  void run(const JobPtr& job, const PreparedCalibration& prepared);
  void report(const JobPtr& job, const CalibrationProgress& progress);
  CalibrationResult result_of(CalibrationOutcome outcome);
  // Activates the schedule if that is wanted, records the end and tells the subscribers.
  void end(const JobPtr& job, CalibrationEnd end);
  // The same for a job that the next process continues.
  void interrupt(const JobPtr& job);
  void publish_end(const JobPtr& job, const CalibrationEnd& end);
  // Sets result.activated, after activating a schedule that passed, by `activate`, if that is
  // `wanted`.
  using Activate = std::function<absl::Status(const std::shared_ptr<const Schedule>&)>;
  void activate(bool wanted, CalibrationResult& result, const Activate& activate);
  void keep_alive_loop();

  Engine& engine_;
  Schedules& schedules_;
  metrics::ServerMetrics& metrics_;
  const absl::Duration keep_alive_;
  std::filesystem::path directory_{};  // empty: jobs end with the process

  std::mutex start_mutex_;  // one job is made or removed at a time, with its file; taken first

  mutable std::mutex mutex_;      // guards what follows, and what the jobs hold
  std::condition_variable wake_;  // both threads
  std::deque<JobPtr> jobs_;       // newest first
  std::optional<std::pair<JobPtr, PreparedCalibration>> next_{};  // for the worker
  bool stopping_ = false;

  Measurement measured_{};  // the worker's

  std::thread worker_;
  std::thread keep_alive_thread_;
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_CALIBRATION_JOBS_H_
