#include "server/calibration_jobs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/errors.h"
#include "server/translate_schedule.h"
#include "spdlog/spdlog.h"

namespace kascade::server {
namespace {

constexpr size_t kMaxEndedJobs = 32;
constexpr absl::Duration kProgressInterval = absl::Milliseconds(200);
constexpr double kLeastRateSeconds = 0.5;  // of a stage, for its rate to mean anything

v1::CalibrationStage to_proto(CalibrationStage stage) {
  switch (stage) {
    case CalibrationStage::kMeasuring:
      return v1::CALIBRATION_STAGE_MEASURING;
    case CalibrationStage::kMeasuringCosts:
      return v1::CALIBRATION_STAGE_WEIGHING;
    case CalibrationStage::kPlanning:
      return v1::CALIBRATION_STAGE_PLANNING;
    case CalibrationStage::kCheckingQuality:
      return v1::CALIBRATION_STAGE_GATING;
    case CalibrationStage::kDone:
      return v1::CALIBRATION_STAGE_DONE;
  }
  return v1::CALIBRATION_STAGE_UNSPECIFIED;
}

void set_time(absl::Time time, google::protobuf::Timestamp& out) {
  const absl::Duration since_epoch = time - absl::UnixEpoch();
  out.set_seconds(absl::ToInt64Seconds(since_epoch));
  out.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(since_epoch - absl::Seconds(out.seconds()))));
}

absl::Status unknown_job(const std::string& id) {
  return with_reason(absl::NotFoundError(absl::StrCat("no calibration has the id \"", id, "\"")),
                     reason::kNotFound, {{"calibration_id", id}});
}

void add_note(const std::string& note, v1::CalibrationResult& result) {
  if (note.empty()) return;
  result.set_note(absl::StrCat(result.note(), result.note().empty() ? "" : "; ", note));
}

v1::CalibrationState state_of(const absl::Status& status) {
  if (status.ok()) return v1::CALIBRATION_STATE_SUCCEEDED;
  return status.code() == absl::StatusCode::kCancelled ? v1::CALIBRATION_STATE_CANCELLED
                                                       : v1::CALIBRATION_STATE_FAILED;
}

}  // namespace

struct CalibrationJobs::Job {
  // Constant.
  std::string id;
  std::string data_digest;
  int64_t tokens = 0;
  absl::Time begin = absl::Now();

  std::atomic<bool> stop = false;

  // Guarded by the registry's mutex.
  v1::CalibrationState state = v1::CALIBRATION_STATE_RUNNING;
  bool activate = true;
  CalibrationProgress progress{};
  absl::Time stage_begin = begin;
  absl::Time last_report{};
  absl::Time ended{};
  absl::Status status{};
  v1::CalibrationResult result;
  std::vector<SubscriberPtr> subscribers;

  bool running() const { return state == v1::CALIBRATION_STATE_RUNNING; }
  v1::CalibrationProgress progress_now() const;
  v1::Calibration describe() const;
};

v1::CalibrationProgress CalibrationJobs::Job::progress_now() const {
  v1::CalibrationProgress out;
  const absl::Time now = running() ? absl::Now() : ended;
  const double seconds = absl::ToDoubleSeconds(now - stage_begin);
  out.set_stage(to_proto(progress.stage));
  out.set_tokens_done(progress.done_tokens);
  out.set_tokens_total(progress.total_tokens);
  out.set_candidate_anchors(progress.candidate_anchors);
  out.set_elapsed_seconds(absl::ToDoubleSeconds(now - begin));
  const bool measurable = seconds >= kLeastRateSeconds && progress.stage != CalibrationStage::kDone;
  if (measurable && progress.done_tokens > 0) {
    const double rate = static_cast<double>(progress.done_tokens) / seconds;
    out.set_tokens_per_second(rate);
    const int64_t rest = std::max<int64_t>(0, progress.total_tokens - progress.done_tokens);
    out.set_eta_seconds(static_cast<double>(rest) / rate);
  }
  return out;
}

v1::Calibration CalibrationJobs::Job::describe() const {
  v1::Calibration out;
  out.set_calibration_id(id);
  out.set_state(state);
  set_time(begin, *out.mutable_started_at());
  *out.mutable_progress() = progress_now();
  if (running()) return out;
  set_time(ended, *out.mutable_ended_at());
  if (status.ok()) {
    out.set_schedule_id(result.schedule().schedule_id());
  } else {
    out.set_error_message(std::string(status.message()));
    if (state == v1::CALIBRATION_STATE_FAILED) out.set_error_code(static_cast<int>(status.code()));
  }
  return out;
}

CalibrationJobs::CalibrationJobs(Engine& engine, ScheduleStore& schedules, Metrics& metrics,
                                 absl::Duration keep_alive)
    : engine_(engine),
      schedules_(schedules),
      metrics_(metrics),
      keep_alive_(keep_alive),
      keep_alive_thread_([this] { keep_alive_loop(); }) {}

CalibrationJobs::~CalibrationJobs() {
  shutdown();
  wake_.notify_all();
  keep_alive_thread_.join();
}

absl::Status CalibrationJobs::start(CalibrationPlan plan, const SubscriberPtr& subscriber) {
  bool attached = false;
  auto job = find_or_create(plan, attached);
  if (!job.ok()) return job.status();
  const bool activate = plan.activate;
  if (!attached) launch(*job, std::move(plan));
  follow(*job, subscriber, attached, activate);
  return absl::OkStatus();
}

absl::StatusOr<CalibrationJobs::JobPtr> CalibrationJobs::find_or_create(CalibrationPlan& plan,
                                                                        bool& attached) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return absl::UnavailableError("the server is going down");
  if (JobPtr job = find(plan.id); job && (job->running() ? !job->stop : job->status.ok())) {
    attached = true;
    job->activate = job->activate || plan.activate;
    return job;
  }
  for (const JobPtr& job : jobs_) {
    if (!job->running()) continue;
    const char* what = job->stop ? " is being cancelled; try again" : " is running";
    return with_reason(absl::AbortedError(absl::StrCat("calibration ", job->id, what)),
                       reason::kCalibrationRunning, {{"calibration_id", job->id}});
  }
  std::erase_if(jobs_, [&](const JobPtr& other) { return other->id == plan.id; });
  auto job = std::make_shared<Job>();
  job->id = plan.id;
  job->data_digest = plan.data_digest;
  job->tokens = plan.tokens;
  job->activate = plan.activate;
  jobs_.push_front(job);
  if (jobs_.size() > kMaxEndedJobs + 1) jobs_.pop_back();
  return job;
}

void CalibrationJobs::launch(const JobPtr& job, CalibrationPlan plan) {
  const std::lock_guard lock(worker_mutex_);
  if (worker_.joinable()) worker_.join();  // has told its subscribers the end, or is about to
  spdlog::info("calibration {} starts: {} texts, {} tokens", job->id, plan.texts.size(),
               plan.tokens);
  worker_ = std::thread([this, job, plan = std::move(plan)] { run(job, plan); });
}

void CalibrationJobs::run(const JobPtr& job, const CalibrationPlan& plan) {
  const auto outcome = calibrate(
      engine_, plan.options, plan.texts,
      [&](const CalibrationProgress& progress) { report(job, progress); }, job->stop, &measured_);
  if (outcome.ok()) return succeed(job, *outcome);
  metrics_.finish_calibration(
      state_of(outcome.status()) == v1::CALIBRATION_STATE_CANCELLED ? "cancelled" : "failed");
  end(job, outcome.status(), {});
}

void CalibrationJobs::report(const JobPtr& job, const CalibrationProgress& progress) {
  v1::CalibrationProgress message;
  std::vector<SubscriberPtr> subscribers;
  {
    const std::lock_guard lock(mutex_);
    const absl::Time now = absl::Now();
    const bool new_stage =
        progress.stage != job->progress.stage || job->last_report == absl::Time();
    job->progress = progress;
    // A stage's first report comes after its first step, so it began when the stage before ended.
    if (new_stage && job->last_report != absl::Time()) job->stage_begin = job->last_report;
    if (!new_stage && now - job->last_report < kProgressInterval) return;
    job->last_report = now;
    message = job->progress_now();
    subscribers = job->subscribers;
  }
  if (progress.total_tokens > 0) {
    metrics_.calibration_progress.Set(static_cast<double>(progress.done_tokens) /
                                      static_cast<double>(progress.total_tokens));
  }
  for (const SubscriberPtr& subscriber : subscribers) subscriber->progress(message);
}

void CalibrationJobs::succeed(const JobPtr& job, const CalibrationOutcome& outcome) {
  auto schedule = std::make_shared<const Schedule>(outcome.schedule);
  v1::CalibrationResult result;
  *result.mutable_schedule() = server::to_proto(*schedule);
  result.set_schedule_json(to_json(*schedule));
  for (const QualityCheckResult& candidate : outcome.table) {
    *result.add_candidates() = server::to_proto(candidate);
  }
  for (const std::vector<double>& row : outcome.similarity) {
    result.add_similarity()->mutable_to_layers()->Add(row.begin(), row.end());
  }
  result.set_passed(schedule->quality.passed);
  add_note(outcome.note, result);
  const auto file = schedules_.add(schedule);
  if (file.ok()) {
    result.set_saved_file(*file);
  } else {
    add_note(absl::StrCat("not saved: ", file.status().message()), result);
    spdlog::error("schedule {} is not saved: {}", schedule->schedule_id,
                  std::string(file.status().message()));
  }
  metrics_.finish_calibration(result.passed() ? "passed" : "not_passed");
  end(job, absl::OkStatus(), std::move(result));
}

void CalibrationJobs::end(const JobPtr& job, const absl::Status& status,
                          v1::CalibrationResult result) {
  bool wanted = false;
  {
    const std::lock_guard lock(mutex_);
    wanted = job->activate;
  }
  if (status.ok()) activate(wanted, result);
  std::vector<SubscriberPtr> subscribers;
  {
    const std::lock_guard lock(mutex_);
    job->ended = absl::Now();
    job->status = status;
    job->state = state_of(status);
    job->result = result;
    subscribers.swap(job->subscribers);
  }
  spdlog::info("calibration {} ended after {:.1f} s: {}", job->id,
               absl::ToDoubleSeconds(job->ended - job->begin),
               status.ok() ? (result.passed() ? "passed" : "did not pass its gate")
                           : std::string(status.message()));
  for (const SubscriberPtr& subscriber : subscribers) subscriber->ended(status, result);
}

void CalibrationJobs::activate(bool wanted, v1::CalibrationResult& result) {
  const std::string& id = result.schedule().schedule_id();
  const auto active = engine_.active_schedule();
  result.set_activated(active && active->schedule_id == id);
  if (result.activated() || !result.passed() || !wanted) return;
  const auto schedule = schedules_.find(id);
  if (!schedule) return;
  const absl::Status status = schedules_.activate(schedule, /*force=*/false);
  result.set_activated(status.ok());
  if (!status.ok()) add_note(absl::StrCat("not activated: ", status.message()), result);
}

void CalibrationJobs::follow(const JobPtr& job, const SubscriberPtr& subscriber, bool attached,
                             bool activate_it) {
  v1::CalibrationStarted started;
  started.set_calibration_id(job->id);
  started.set_attached(attached);
  started.set_data_digest(job->data_digest);
  started.set_tokens(job->tokens);
  subscriber->started(started);
  absl::Status status;
  v1::CalibrationResult result;
  {
    const std::lock_guard lock(mutex_);
    if (job->running()) {
      job->subscribers.push_back(subscriber);
      return;
    }
    status = job->status;
    result = job->result;
  }
  if (status.ok()) activate(activate_it, result);
  subscriber->ended(status, result);
}

absl::Status CalibrationJobs::watch(const std::string& id, const SubscriberPtr& subscriber) {
  JobPtr job;
  {
    const std::lock_guard lock(mutex_);
    job = find(id);
  }
  if (!job) return unknown_job(id);
  follow(job, subscriber, /*attached=*/true, /*activate_it=*/false);
  return absl::OkStatus();
}

void CalibrationJobs::unsubscribe(const std::string& id, const CalibrationSubscriber* subscriber,
                                  bool cancel) {
  const std::lock_guard lock(mutex_);
  const JobPtr job = find(id);
  if (!job) return;
  const size_t removed = std::erase_if(
      job->subscribers, [&](const SubscriberPtr& other) { return other.get() == subscriber; });
  if (cancel && removed > 0 && job->subscribers.empty()) job->stop = true;
}

absl::Status CalibrationJobs::cancel(const std::string& id, const SubscriberPtr& subscriber) {
  {
    const std::lock_guard lock(mutex_);
    if (const JobPtr job = find(id)) job->stop = true;
  }
  return watch(id, subscriber);
}

absl::StatusOr<v1::Calibration> CalibrationJobs::get(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const JobPtr job = find(id);
  if (!job) return unknown_job(id);
  v1::Calibration out = job->describe();
  if (!job->running() && job->status.ok()) *out.mutable_result() = job->result;
  return out;
}

std::vector<v1::Calibration> CalibrationJobs::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<v1::Calibration> out;
  for (const JobPtr& job : jobs_) out.push_back(job->describe());
  return out;
}

CalibrationJobs::JobPtr CalibrationJobs::find(const std::string& id) const {
  const auto found =
      std::find_if(jobs_.begin(), jobs_.end(), [&](const JobPtr& job) { return job->id == id; });
  return found == jobs_.end() ? nullptr : *found;
}

void CalibrationJobs::shutdown() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const JobPtr& job : jobs_) job->stop = true;
  }
  const std::lock_guard lock(worker_mutex_);
  if (worker_.joinable()) worker_.join();
}

void CalibrationJobs::keep_alive_loop() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    wake_.wait_for(lock, absl::ToChronoMilliseconds(keep_alive_), [&] { return stopping_; });
    std::vector<std::pair<SubscriberPtr, v1::CalibrationProgress>> messages;
    for (const JobPtr& job : jobs_) {
      if (!job->running() || absl::Now() - job->last_report < keep_alive_) continue;
      for (const SubscriberPtr& subscriber : job->subscribers) {
        messages.emplace_back(subscriber, job->progress_now());
      }
    }
    lock.unlock();
    for (const auto& [subscriber, message] : messages) subscriber->progress(message);
    lock.lock();
  }
}

}  // namespace kascade::server
