#include "server/core/calibration_jobs.h"

#include <algorithm>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/clock.h"
#include "engine/base/refusal.h"
#include "server/core/calibration_file.h"
#include "server/core/request_guard.h"
#include "spdlog/spdlog.h"

namespace kascade::core {
namespace {

absl::Status unknown_job(const std::string& id) {
  return refuse(absl::StatusCode::kNotFound, absl::StrCat("no calibration has the id \"", id, "\""),
                {.reason = reason::kNotFound, .details = {{"calibration_id", id}}});
}

absl::Status still_running(const std::string& id) {
  return refuse(absl::StatusCode::kFailedPrecondition,
                absl::StrCat("calibration ", id, " is running"),
                {.reason = reason::kPrecondition,
                 .subject = id,
                 .remedy = "cancel it first",
                 .details = {{"calibration_id", id}}});
}

// Of tokens that are held by a job.
int64_t bytes_of(const Texts& texts) {
  return count_tokens(texts) * static_cast<int64_t>(sizeof(Token)) +
         static_cast<int64_t>(texts.size() * sizeof(texts[0]));
}

void remove_files(const std::vector<CalibrationJobPtr>& jobs) {
  for (const CalibrationJobPtr& job : jobs) {
    if (!job->file) continue;
    const absl::Status status = job->file->remove();
    if (!status.ok()) spdlog::warn("calibration {} stays: {}", job->id(), message_of(status));
  }
}

}  // namespace

CalibrationJobs::CalibrationJobs(Engine& engine, Schedules& schedules,
                                 metrics::ServerMetrics& metrics, absl::Duration keep_alive)
    : engine_(engine),
      schedules_(schedules),
      metrics_(metrics),
      keep_alive_(keep_alive),
      worker_([this] { work_loop(); }),
      keep_alive_thread_([this] { keep_alive_loop(); }) {}

CalibrationJobs::~CalibrationJobs() {
  shutdown();
  keep_alive_thread_.join();
}

void CalibrationJobs::open(const std::filesystem::path& directory, MemoryBudget& memory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    spdlog::warn("calibrations end with the server: cannot make {}: {}", directory.string(),
                 error.message());
    return;
  }
  directory_ = directory;
  std::vector<StoredCalibration> stored = CalibrationFile::load_all(directory, engine_);
  // The newest first. Of several that were interrupted, which only happens to copied files, the
  // newest one continues.
  std::ranges::sort(stored, [](const auto& a, const auto& b) {
    return std::pair(a.prepared.has_value(), a.job->began) >
           std::pair(b.prepared.has_value(), b.job->began);
  });
  std::vector<JobPtr> dropped;
  {
    const std::lock_guard lock(mutex_);
    for (const StoredCalibration& each : stored) jobs_.push_back(each.job);
    dropped = drop_oldest();
  }
  remove_files(dropped);
  for (size_t i = 0; i < stored.size() && stored[i].prepared; ++i) {
    if (i == 0) {
      resume(stored[i].job, *std::move(stored[i].prepared), memory);
    } else {
      end(stored[i].job, {.status = absl::AbortedError("another calibration continued")});
    }
  }
}

void CalibrationJobs::resume(const JobPtr& job, PreparedCalibration prepared,
                             MemoryBudget& memory) {
  auto guard = std::make_shared<RequestGuard>(memory);
  const absl::Status status =
      guard->hold_more(bytes_of(prepared.texts.texts) + bytes_of(prepared.texts.held_out));
  if (!status.ok()) return end(job, {.status = status});
  prepared.memory = guard;
  spdlog::info("calibration {} continues", job->id());
  hand_to_worker(job, std::move(prepared));
}

absl::Status CalibrationJobs::start(PreparedCalibration prepared, const SubscriberPtr& subscriber) {
  bool attached = false;
  const bool activate = prepared.activate;
  JobPtr job;
  {
    const std::lock_guard lock(start_mutex_);
    auto found = find_or_create(prepared, attached);
    if (!found.ok()) return found.status();
    job = *std::move(found);
    if (!attached) launch(job, std::move(prepared));
    if (attached && activate && job->file) job->file->keep_activate();
  }
  subscribe(job, subscriber, attached, activate);
  return absl::OkStatus();
}

bool CalibrationJobs::may_attach(const CalibrationJob& job,
                                 const PreparedCalibration& prepared) const {
  if (job.running()) return !job.stop;
  return job.result && !prepared.fresh && schedules_.find(job.result->schedule->schedule_id).ok();
}

absl::StatusOr<CalibrationJobs::JobPtr> CalibrationJobs::find_or_create(
    const PreparedCalibration& prepared, bool& attached) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return absl::UnavailableError("the server is going down");
  if (JobPtr job = find(prepared.id); job && may_attach(*job, prepared)) {
    attached = true;
    job->activate = job->activate || prepared.activate;
    return job;
  }
  for (const JobPtr& job : jobs_) {
    if (!job->running()) continue;
    const char* what = job->stop ? " is being cancelled; try again" : " is running";
    return refuse(
        absl::StatusCode::kAborted, absl::StrCat("calibration ", job->id(), what),
        {.reason = reason::kCalibrationRunning, .details = {{"calibration_id", job->id()}}});
  }
  std::erase_if(jobs_, [&](const JobPtr& other) { return other->id() == prepared.id; });
  JobPtr job = make_job(prepared);
  if (const auto active = schedules_.active()) job->active_before = active->schedule_id;
  jobs_.push_front(job);
  return job;
}

std::vector<CalibrationJobs::JobPtr> CalibrationJobs::drop_oldest() {
  std::vector<JobPtr> dropped;
  while (jobs_.size() > kMaxEndedJobs + 1) {
    dropped.push_back(jobs_.back());
    jobs_.pop_back();
  }
  return dropped;
}

void CalibrationJobs::launch(const JobPtr& job, PreparedCalibration prepared) {
  std::vector<JobPtr> dropped;
  {
    const std::lock_guard lock(mutex_);
    dropped = drop_oldest();
  }
  remove_files(dropped);
  if (!directory_.empty()) {
    auto file = CalibrationFile::create(directory_, *job, prepared, engine_);
    const std::lock_guard lock(mutex_);
    if (file.ok()) job->file = *std::move(file);
    if (!file.ok()) {
      spdlog::warn("calibration {} ends with the server: {}", job->id(), message_of(file.status()));
    }
  }
  spdlog::info("calibration {} starts: {} texts, {} tokens", job->id(), prepared.texts.texts.size(),
               prepared.tokens);
  hand_to_worker(job, std::move(prepared));
}

void CalibrationJobs::hand_to_worker(const JobPtr& job, PreparedCalibration prepared) {
  {
    const std::lock_guard lock(mutex_);
    if (!stopping_) {
      next_.emplace(job, std::move(prepared));
      wake_.notify_all();
      return;
    }
  }
  interrupt(job);  // the worker may be gone
}

void CalibrationJobs::subscribe(const JobPtr& job, const SubscriberPtr& subscriber, bool attached,
                                bool activate_it) {
  CalibrationStarted started = job->started;
  started.attached = attached;
  subscriber->started(started);
  absl::Status status;
  std::optional<CalibrationResult> result;
  {
    const std::lock_guard lock(mutex_);
    if (job->running()) {
      job->subscribers.push_back(subscriber);
      return;
    }
    status = job->status;
    result = job->result;
  }
  if (result) {
    activate(activate_it, *result, [&](const std::shared_ptr<const Schedule>& made) {
      return schedules_.activate(made, /*force=*/false).status();
    });
  }
  subscriber->ended(status, result ? &*result : nullptr);
}

absl::Status CalibrationJobs::watch(const std::string& id, const SubscriberPtr& subscriber) {
  JobPtr job;
  {
    const std::lock_guard lock(mutex_);
    job = find(id);
  }
  if (!job) return unknown_job(id);
  subscribe(job, subscriber, /*attached=*/true, /*activate_it=*/false);
  return absl::OkStatus();
}

void CalibrationJobs::unsubscribe(const std::string& id, const CalibrationSubscriber* subscriber,
                                  bool cancel) {
  const std::lock_guard lock(mutex_);
  const JobPtr job = find(id);
  if (!job) return;
  const size_t removed = std::erase_if(
      job->subscribers, [&](const SubscriberPtr& other) { return other.get() == subscriber; });
  if (!cancel || removed == 0 || !job->subscribers.empty() || stopping_) return;
  job->cancelled = true;
  job->stop = true;
}

absl::Status CalibrationJobs::cancel(const std::string& id, const SubscriberPtr& subscriber) {
  {
    const std::lock_guard lock(mutex_);
    if (const JobPtr job = find(id)) {
      job->cancelled = true;
      job->stop = true;
    }
  }
  return watch(id, subscriber);
}

absl::Status CalibrationJobs::remove(const std::string& id) {
  const std::lock_guard start_lock(start_mutex_);
  JobPtr job;
  {
    const std::lock_guard lock(mutex_);
    job = find(id);
    if (!job) return unknown_job(id);
    if (job->running()) return still_running(id);
  }
  if (job->file) {
    const absl::Status status = job->file->remove();
    if (!status.ok()) return absl::InternalError(message_of(status));
  }
  const std::lock_guard lock(mutex_);
  std::erase(jobs_, job);
  return absl::OkStatus();
}

absl::StatusOr<CalibrationSnapshot> CalibrationJobs::get(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const JobPtr job = find(id);
  if (!job) return unknown_job(id);
  CalibrationSnapshot out = job->snapshot();
  out.result = job->result;
  return out;
}

std::vector<CalibrationSnapshot> CalibrationJobs::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<CalibrationSnapshot> out;
  for (const JobPtr& job : jobs_) out.push_back(job->snapshot());
  return out;
}

CalibrationJobs::JobPtr CalibrationJobs::find(const std::string& id) const {
  const auto found =
      std::find_if(jobs_.begin(), jobs_.end(), [&](const JobPtr& job) { return job->id() == id; });
  return found == jobs_.end() ? nullptr : *found;
}

void CalibrationJobs::shutdown() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const JobPtr& job : jobs_) job->stop = true;
  }
  wake_.notify_all();
  if (worker_.joinable()) worker_.join();
}

}  // namespace kascade::core
