#include "server/core/calibration_jobs.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/clock.h"
#include "engine/base/refusal.h"
#include "spdlog/spdlog.h"

namespace kascade::core {
namespace {

constexpr size_t kMaxEndedJobs = 32;
constexpr absl::Duration kProgressInterval = absl::Milliseconds(200);
constexpr double kLeastRateSeconds = 0.5;  // of a stage, for its rate to mean anything

absl::Status unknown_job(const std::string& id) {
  return refuse(absl::StatusCode::kNotFound, absl::StrCat("no calibration has the id \"", id, "\""),
                {.reason = reason::kNotFound, .details = {{"calibration_id", id}}});
}

void add_note(const std::string& note, CalibrationResult& result) {
  if (note.empty()) return;
  absl::StrAppend(&result.note, result.note.empty() ? "" : "; ", note);
}

CalibrationState state_of(const absl::Status& status) {
  if (status.ok()) return CalibrationState::kSucceeded;
  return absl::IsCancelled(status) ? CalibrationState::kCancelled : CalibrationState::kFailed;
}

}  // namespace

struct CalibrationJobs::Job {
  // Constant.
  std::string id{};
  std::string data_digest{};
  int64_t tokens = 0;
  std::optional<int64_t> held_out_tokens{};
  absl::Time begin = steady_now();
  absl::Time began_at = absl::Now();  // as people are told

  std::atomic<bool> stop = false;

  std::shared_ptr<const Schedule> active_before{};  // when the job began; null if none was active

  // Guarded by the mutex of all jobs.
  CalibrationState state = CalibrationState::kRunning;
  bool activate = true;
  CalibrationProgress progress{};
  absl::Time stage_begin = begin;
  absl::Time last_report{};
  absl::Time ended{};
  absl::Time ended_at{};  // as people are told
  absl::Status status{};
  std::optional<CalibrationResult> result{};  // set with kSucceeded
  std::vector<SubscriberPtr> subscribers{};

  bool running() const { return state == CalibrationState::kRunning; }
  CalibrationReport report_now() const;
  CalibrationSnapshot snapshot() const;
};

CalibrationReport CalibrationJobs::Job::report_now() const {
  const absl::Time now = running() ? steady_now() : ended;
  CalibrationReport out{.progress = progress, .elapsed = now - begin};
  const double seconds = absl::ToDoubleSeconds(now - stage_begin);
  const bool measurable = seconds >= kLeastRateSeconds && progress.stage != CalibrationStage::kDone;
  if (measurable && progress.done_tokens > 0) {
    const double rate = static_cast<double>(progress.done_tokens) / seconds;
    const int64_t rest = std::max<int64_t>(0, progress.total_tokens - progress.done_tokens);
    out.tokens_per_second = rate;
    out.remaining = absl::Seconds(static_cast<double>(rest) / rate);
  }
  return out;
}

CalibrationSnapshot CalibrationJobs::Job::snapshot() const {
  CalibrationSnapshot out{.id = id,
                          .state = state,
                          .began = began_at,
                          .ended = ended_at,
                          .report = report_now(),
                          .status = status};
  if (result) out.schedule_id = result->schedule->schedule_id;
  return out;
}

CalibrationJobs::CalibrationJobs(Engine& engine, Schedules& schedules,
                                 metrics::ServerMetrics& metrics, absl::Duration keep_alive)
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

absl::Status CalibrationJobs::start(PreparedCalibration prepared, const SubscriberPtr& subscriber) {
  bool attached = false;
  auto job = find_or_create(prepared, attached);
  if (!job.ok()) return job.status();
  const bool activate = prepared.activate;
  if (!attached) launch(*job, std::move(prepared));
  subscribe(*job, subscriber, attached, activate);
  return absl::OkStatus();
}

absl::StatusOr<CalibrationJobs::JobPtr> CalibrationJobs::find_or_create(
    const PreparedCalibration& prepared, bool& attached) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return absl::UnavailableError("the server is going down");
  if (JobPtr job = find(prepared.id); job && (job->running() ? !job->stop : job->status.ok())) {
    attached = true;
    job->activate = job->activate || prepared.activate;
    return job;
  }
  for (const JobPtr& job : jobs_) {
    if (!job->running()) continue;
    const char* what = job->stop ? " is being cancelled; try again" : " is running";
    return refuse(
        absl::StatusCode::kAborted, absl::StrCat("calibration ", job->id, what),
        {.reason = reason::kCalibrationRunning, .details = {{"calibration_id", job->id}}});
  }
  std::erase_if(jobs_, [&](const JobPtr& other) { return other->id == prepared.id; });
  auto job = std::make_shared<Job>();
  job->id = prepared.id;
  job->data_digest = prepared.data_digest;
  job->tokens = prepared.tokens;
  job->held_out_tokens = prepared.held_out_tokens;
  job->active_before = schedules_.active();
  job->activate = prepared.activate;
  jobs_.push_front(job);
  if (jobs_.size() > kMaxEndedJobs + 1) jobs_.pop_back();
  return job;
}

void CalibrationJobs::launch(const JobPtr& job, PreparedCalibration prepared) {
  const std::lock_guard lock(worker_mutex_);
  if (worker_.joinable()) worker_.join();  // has told its subscribers the end, or is about to
  spdlog::info("calibration {} starts: {} texts, {} tokens", job->id, prepared.texts.texts.size(),
               prepared.tokens);
  worker_ = std::thread([this, job, prepared = std::move(prepared)] { run(job, prepared); });
}

void CalibrationJobs::run(const JobPtr& job, const PreparedCalibration& prepared) {
  auto outcome = calibrate(
      engine_, prepared.options, prepared.texts,
      [&](const CalibrationProgress& progress) { report(job, progress); }, job->stop, &measured_);
  if (outcome.ok()) return succeed(job, *std::move(outcome));
  const bool cancelled = state_of(outcome.status()) == CalibrationState::kCancelled;
  metrics_.finish_calibration(cancelled ? "cancelled" : "failed");
  end(job, outcome.status(), std::nullopt);
}

void CalibrationJobs::report(const JobPtr& job, const CalibrationProgress& progress) {
  CalibrationReport message;
  std::vector<SubscriberPtr> subscribers;
  {
    const std::lock_guard lock(mutex_);
    const absl::Time now = steady_now();
    const bool new_stage =
        progress.stage != job->progress.stage || job->last_report == absl::Time();
    job->progress = progress;
    // A stage's first report comes after its first step, so it began when the stage before ended.
    if (new_stage && job->last_report != absl::Time()) job->stage_begin = job->last_report;
    if (!new_stage && now - job->last_report < kProgressInterval) return;
    job->last_report = now;
    message = job->report_now();
    subscribers = job->subscribers;
  }
  if (progress.total_tokens > 0) {
    metrics_.calibration_progress.Set(static_cast<double>(progress.done_tokens) /
                                      static_cast<double>(progress.total_tokens));
  }
  for (const SubscriberPtr& subscriber : subscribers) subscriber->progress(message);
}

void CalibrationJobs::succeed(const JobPtr& job, CalibrationOutcome outcome) {
  CalibrationResult result{
      .schedule = std::make_shared<const Schedule>(std::move(outcome.schedule)),
      .candidates = std::move(outcome.table),
      .similarity = std::move(outcome.similarity),
      .layers = std::move(outcome.layers),
      .most_similar_pair = outcome.most_similar_pair,
      .auto_threshold = outcome.auto_threshold,
      .note = std::move(outcome.note)};
  if (!result.schedule->quality.suspect) {
    result.warning = savings_warning(*result.schedule, engine_.model().context);
  }
  const auto file = schedules_.add(result.schedule);
  if (file.ok()) {
    result.saved_file = *file;
  } else {
    add_note(absl::StrCat("not saved: ", file.status().message()), result);
    spdlog::error("schedule {} is not saved: {}", result.schedule->schedule_id,
                  std::string(file.status().message()));
  }
  metrics_.finish_calibration(result.passed() ? "passed" : "not_passed");
  end(job, absl::OkStatus(), std::move(result));
}

void CalibrationJobs::end(const JobPtr& job, const absl::Status& status,
                          std::optional<CalibrationResult> result) {
  bool wanted = false;
  {
    const std::lock_guard lock(mutex_);
    wanted = job->activate;
  }
  if (result) {
    activate(wanted, *result, [&](const std::shared_ptr<const Schedule>& made) {
      return schedules_.activate_after(job->active_before, made);
    });
  }
  std::vector<SubscriberPtr> subscribers;
  {
    const std::lock_guard lock(mutex_);
    job->ended = steady_now();
    job->ended_at = absl::Now();
    job->status = status;
    job->state = state_of(status);
    job->result = result;
    subscribers.swap(job->subscribers);
  }
  spdlog::info("calibration {} ended after {:.1f} s: {}", job->id,
               absl::ToDoubleSeconds(job->ended - job->begin),
               !result            ? std::string(status.message())
               : result->passed() ? "passed"
                                  : "did not pass its quality check");
  for (const SubscriberPtr& subscriber : subscribers) {
    subscriber->ended(status, result ? &*result : nullptr);
  }
}

void CalibrationJobs::activate(bool wanted, CalibrationResult& result, const Activate& activate) {
  const std::string& id = result.schedule->schedule_id;
  const auto active = engine_.active_schedule();
  result.activated = active && active->schedule_id == id;
  if (result.activated || !result.passed() || !wanted) return;
  const auto schedule = schedules_.find(id);
  if (!schedule.ok()) return;
  const absl::Status status = activate(*schedule);
  result.activated = status.ok();
  if (!status.ok()) add_note(absl::StrCat("not activated: ", status.message()), result);
}

void CalibrationJobs::subscribe(const JobPtr& job, const SubscriberPtr& subscriber, bool attached,
                                bool activate_it) {
  subscriber->started({.id = job->id,
                       .attached = attached,
                       .data_digest = job->data_digest,
                       .tokens = job->tokens,
                       .held_out_tokens = job->held_out_tokens});
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
      return schedules_.activate(made, /*force=*/false);
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
  if (cancel && removed > 0 && job->subscribers.empty()) job->stop = true;
}

absl::Status CalibrationJobs::cancel(const std::string& id, const SubscriberPtr& subscriber) {
  {
    const std::lock_guard lock(mutex_);
    if (const JobPtr job = find(id)) job->stop = true;
  }
  return watch(id, subscriber);
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
    std::vector<std::pair<SubscriberPtr, CalibrationReport>> messages;
    for (const JobPtr& job : jobs_) {
      if (!job->running() || steady_now() - job->last_report < keep_alive_) continue;
      for (const SubscriberPtr& subscriber : job->subscribers) {
        messages.emplace_back(subscriber, job->report_now());
      }
    }
    lock.unlock();
    for (const auto& [subscriber, message] : messages) subscriber->progress(message);
    lock.lock();
  }
}

}  // namespace kascade::core
