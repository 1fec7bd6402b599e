// Calibrations as jobs that outlive the calls that started them: at most one runs, on a thread of
// its own; any number of calls follow it.
#ifndef KASCADE_SERVER_CALIBRATION_JOBS_H_
#define KASCADE_SERVER_CALIBRATION_JOBS_H_

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/calibration/calibration.h"
#include "kascade/v1/calibration_service.pb.h"
#include "server/metrics.h"
#include "server/schedule_store.h"
#include "server/translate_calibration.h"

namespace kascade::server {

// What a call hears of the job that it follows: started, any progress, ended; from several threads,
// never two at once after started().
class CalibrationSubscriber {
 public:
  virtual ~CalibrationSubscriber() = default;
  virtual void started(const v1::CalibrationStarted& started) = 0;
  virtual void progress(const v1::CalibrationProgress& progress) = 0;
  // `result` is set if `status` is OK.
  virtual void ended(const absl::Status& status, const v1::CalibrationResult& result) = 0;
};
using SubscriberPtr = std::shared_ptr<CalibrationSubscriber>;

class CalibrationJobs {
 public:
  // All references outlive the jobs. `keep_alive`: a subscriber hears something at least so often.
  CalibrationJobs(Engine& engine, ScheduleStore& schedules, Metrics& metrics,
                  absl::Duration keep_alive = absl::Seconds(5));
  ~CalibrationJobs();

  // Starts the job, or attaches to the same one. ABORTED naming the running id: another one runs.
  absl::Status start(CalibrationPlan plan, const SubscriberPtr& subscriber);
  // NOT_FOUND: unknown id. So are the others.
  absl::Status watch(const std::string& id, const SubscriberPtr& subscriber);
  // The subscriber hears nothing more; if no other is left and `cancel`, the job is cancelled.
  void unsubscribe(const std::string& id, const CalibrationSubscriber* subscriber, bool cancel);
  // The subscriber hears the end.
  absl::Status cancel(const std::string& id, const SubscriberPtr& subscriber);

  absl::StatusOr<v1::Calibration> get(const std::string& id) const;
  std::vector<v1::Calibration> list() const;  // newest first, without results

  // Cancels what runs, waits for its end and starts nothing more.
  void shutdown();

 private:
  struct Job;
  using JobPtr = std::shared_ptr<Job>;

  // Finds or makes the job; `attached` tells which.
  absl::StatusOr<JobPtr> find_or_create(CalibrationPlan& plan, bool& attached);
  JobPtr find(const std::string& id) const;  // mutex_ held
  // Tells the subscriber where the job stands; `activate_it` makes a finished job's schedule
  // active.
  void follow(const JobPtr& job, const SubscriberPtr& subscriber, bool attached, bool activate_it);
  void launch(const JobPtr& job, CalibrationPlan plan);
  void run(const JobPtr& job, const CalibrationPlan& plan);
  void report(const JobPtr& job, const CalibrationProgress& progress);
  void succeed(const JobPtr& job, const CalibrationOutcome& outcome);
  void end(const JobPtr& job, const absl::Status& status, v1::CalibrationResult result);
  // Sets result.activated, after activating a schedule that passed if that is `wanted`.
  void activate(bool wanted, v1::CalibrationResult& result);
  void keep_alive_loop();

  Engine& engine_;
  ScheduleStore& schedules_;
  Metrics& metrics_;
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

}  // namespace kascade::server

#endif  // KASCADE_SERVER_CALIBRATION_JOBS_H_
