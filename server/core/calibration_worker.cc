// The parts of CalibrationJobs that run on threads of their own.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/clock.h"
#include "engine/base/refusal.h"
#include "server/core/calibration_file.h"
#include "server/core/calibration_jobs.h"
#include "spdlog/spdlog.h"

namespace kascade::core {
namespace {

constexpr absl::Duration kProgressInterval = absl::Milliseconds(200);

void add_note(const std::string& note, CalibrationResult& result) {
  if (note.empty()) return;
  absl::StrAppend(&result.note, result.note.empty() ? "" : "; ", note);
}

CalibrationState state_of(const absl::Status& status) {
  if (status.ok()) return CalibrationState::kSucceeded;
  return absl::IsCancelled(status) ? CalibrationState::kCancelled : CalibrationState::kFailed;
}

// The outcome by which calibrations are counted.
const char* outcome_of(const CalibrationEnd& end) {
  if (end.result) return end.result->passed() ? "passed" : "not_passed";
  return end.state == CalibrationState::kCancelled ? "cancelled" : "failed";
}

}  // namespace

// A job that was handed over is run even while the server stops: it ends at once, and is told so.
void CalibrationJobs::work_loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stopping_ || next_; });
    if (!next_) return;
    const auto [job, prepared] = *std::exchange(next_, std::nullopt);
    lock.unlock();
    run(job, prepared);
    lock.lock();
  }
}

void CalibrationJobs::run(const JobPtr& job, const PreparedCalibration& prepared) {
  if (prepared.fresh) measured_ = {};
  auto outcome = calibrate(
      engine_, prepared.options, prepared.texts,
      [&](const CalibrationProgress& progress) { report(job, progress); }, job->stop, &measured_,
      job->file.get());
  if (outcome.ok()) return end(job, {.result = result_of(*std::move(outcome))});
  bool interrupted = false;
  {
    const std::lock_guard lock(mutex_);
    interrupted = stopping_ && job->file && !job->cancelled;
  }
  interrupted ? interrupt(job) : end(job, {.status = outcome.status()});
}

void CalibrationJobs::report(const JobPtr& job, const CalibrationProgress& progress) {
  CalibrationReport message;
  std::vector<SubscriberPtr> subscribers;
  {
    const std::lock_guard lock(mutex_);
    const absl::Time now = steady_now();
    const bool first = job->last_report == absl::Time();
    const bool new_stage = first || progress.stage != job->progress.stage;
    job->progress = progress;
    // A stage's first report comes after its first step, so it began when the stage before ended.
    if (new_stage && !first) job->stage_begin = job->last_report;
    if (new_stage) job->stage_begin_tokens = job->continues ? progress.done_tokens : 0;
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

CalibrationResult CalibrationJobs::result_of(CalibrationOutcome outcome) {
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
    add_note(absl::StrCat("not saved: ", message_of(file.status())), result);
    spdlog::error("schedule {} is not saved: {}", result.schedule->schedule_id,
                  message_of(file.status()));
  }
  return result;
}

void CalibrationJobs::end(const JobPtr& job, CalibrationEnd end) {
  bool wanted = false;
  {
    const std::lock_guard lock(mutex_);
    wanted = job->activate;
    end.progress = job->progress;
  }
  end.state = state_of(end.status);
  if (end.result) {
    activate(wanted, *end.result, [&](const std::shared_ptr<const Schedule>& made) {
      return schedules_.activate_after(job->active_before, made);
    });
  }
  end.ended = absl::Now();
  if (job->file) {
    // Before others know the end: they may remove the job then, and its file with it.
    const absl::Status status = job->file->end(*job, end);
    if (!status.ok()) {
      spdlog::warn("a restart would continue calibration {}: {}", job->id(), message_of(status));
    }
  }
  metrics_.finish_calibration(outcome_of(end));
  spdlog::info("calibration {} ended after {:.1f} s: {}", job->id(),
               absl::ToDoubleSeconds(end.ended - job->began),
               !end.result            ? message_of(end.status)
               : end.result->passed() ? "passed"
                                      : "did not pass its quality check");
  publish_end(job, end);
}

void CalibrationJobs::interrupt(const JobPtr& job) {
  CalibrationEnd end{
      .state = CalibrationState::kCancelled,
      .ended = absl::Now(),
      .status = absl::UnavailableError(
          job->file ? "the server is going down; it continues the calibration when it starts"
                    : "the server is going down")};
  {
    const std::lock_guard lock(mutex_);
    end.progress = job->progress;
  }
  spdlog::info("calibration {} is interrupted", job->id());
  publish_end(job, end);
}

void CalibrationJobs::publish_end(const JobPtr& job, const CalibrationEnd& end) {
  std::vector<SubscriberPtr> subscribers;
  {
    const std::lock_guard lock(mutex_);
    job->end(end);
    subscribers.swap(job->subscribers);
  }
  for (const SubscriberPtr& subscriber : subscribers) {
    subscriber->ended(end.status, end.result ? &*end.result : nullptr);
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
  if (!status.ok()) add_note(absl::StrCat("not activated: ", message_of(status)), result);
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
