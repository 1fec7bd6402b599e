#include "server/core/schedules.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/durable_file.h"
#include "engine/base/refusal.h"
#include "spdlog/spdlog.h"

namespace kascade::core {
namespace {

// Beside the reasons of engine/base/refusal.h: the engine runs whatever schedule it is given.
constexpr char kScheduleNotVerified[] = "SCHEDULE_NOT_VERIFIED";
constexpr char kActiveFile[] = "active.json";

// Deletes what a process that was killed left half-written.
std::vector<std::filesystem::path> schedule_files(const std::filesystem::path& directory,
                                                  std::error_code& error) {
  std::vector<std::filesystem::path> files;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;
    if (is_unfinished(it->path(), ".json")) std::filesystem::remove(it->path(), ignored);
    if (it->path().extension() == ".json" && it->path().filename() != kActiveFile) {
      files.push_back(it->path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

absl::Status mismatch(const absl::Status& status,
                      std::vector<std::pair<std::string, std::string>> details) {
  const std::string message = message_of(status);
  return refuse(absl::StatusCode::kFailedPrecondition, message,
                {.reason = reason::kScheduleMismatch,
                 .subject = field_in(message).value_or(""),
                 .remedy = message,
                 .details = std::move(details)});
}

void tell_active(const Schedule& schedule, int32_t context) {
  spdlog::info("schedule {} is active", schedule.schedule_id);
  if (!schedule.quality.passed) {
    spdlog::warn("schedule {} did not pass its quality check", schedule.schedule_id);
  }
  const std::string warning = savings_warning(schedule, context);
  if (!warning.empty()) spdlog::warn("{}", warning);
}

}  // namespace

Schedules::Schedules(Engine& engine, std::filesystem::path directory)
    : engine_(engine), directory_(std::move(directory)) {}

absl::Status Schedules::load() {
  if (directory_.empty()) return absl::OkStatus();
  std::error_code error;
  std::filesystem::create_directories(directory_, error);
  std::vector<std::filesystem::path> files;
  if (!error) files = schedule_files(directory_, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("schedule directory ", directory_.string(), ": ", error.message()));
  }
  const std::lock_guard lock(file_mutex_);
  std::vector<std::shared_ptr<const Schedule>> loaded;
  for (const auto& file : files) {
    auto schedule = load_schedule(file);
    const absl::Status status = schedule.ok() ? check_owner(*schedule) : schedule.status();
    if (!status.ok()) {
      spdlog::warn("schedule {} is left out: {}", file.string(), message_of(status));
      continue;
    }
    const std::string& id = schedule->schedule_id;
    if (file != file_of(id)) other_files_.emplace(id, file);
    loaded.push_back(std::make_shared<const Schedule>(*std::move(schedule)));
  }
  std::stable_sort(loaded.begin(), loaded.end(),
                   [](const auto& a, const auto& b) { return a->created_at < b->created_at; });
  for (auto& schedule : loaded) keep(std::move(schedule));
  if (!std::filesystem::exists(directory_ / kActiveFile, error)) return absl::OkStatus();
  // After a change of model the old schedule must not keep the server from starting.
  if (const absl::Status status = restore_active(); !status.ok()) {
    spdlog::warn("no schedule is active: {}", message_of(status));
  }
  return absl::OkStatus();
}

absl::Status Schedules::restore_active() {
  auto loaded = load_schedule(directory_ / kActiveFile);
  if (!loaded.ok()) return loaded.status();
  auto schedule = std::make_shared<const Schedule>(*std::move(loaded));
  if (const absl::Status status = check_fits(*schedule); !status.ok()) return status;
  const absl::Status activated = engine_.activate(schedule);
  if (!activated.ok()) return activated;
  tell_active(*schedule, engine_.model().context);
  const bool held = find(schedule->schedule_id).ok();
  keep(schedule);
  if (held) return absl::OkStatus();
  const absl::Status saved = save_schedule(*schedule, file_of(schedule->schedule_id));
  if (!saved.ok()) spdlog::warn("the active schedule has no file: {}", message_of(saved));
  return absl::OkStatus();
}

absl::Status Schedules::load_active(const std::filesystem::path& file) {
  auto loaded = load_schedule(file);
  if (!loaded.ok()) return loaded.status();
  return activate(std::make_shared<const Schedule>(*std::move(loaded)), /*force=*/true).status();
}

absl::StatusOr<std::string> Schedules::add(const std::shared_ptr<const Schedule>& schedule) {
  const std::lock_guard lock(file_mutex_);
  keep(schedule);
  if (directory_.empty()) return "";
  const std::filesystem::path file = file_of(schedule->schedule_id);
  if (const absl::Status status = save_schedule(*schedule, file); !status.ok()) return status;
  return file.string();
}

absl::Status Schedules::check_quality(const Schedule& schedule) const {
  const std::string& id = schedule.schedule_id;
  if (const QualityRecord& quality = schedule.quality; !quality.passed) {
    const std::string why =
        quality.suspect
            ? std::string(
                  "the dense model is hardly better than guessing on its text, so the "
                  "model, its tokenizer or their conversion is at fault, no option of "
                  "the calibration")
            : absl::StrCat("perplexity ", quality.degradation_percent, " % worse, at most ",
                           quality.max_degradation_percent, " % allowed, standard error included");
    return refuse(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("schedule ", id, " did not pass its quality check: ", why),
        {.reason = reason::kScheduleNotPassed, .subject = id, .remedy = "activate it with force"});
  }
  if (find(id).ok()) return absl::OkStatus();
  return refuse(absl::StatusCode::kFailedPrecondition,
                absl::StrCat("schedule ", id,
                             " was not made by this server, which knows of its "
                             "quality check only what the file claims"),
                {.reason = kScheduleNotVerified,
                 .subject = id,
                 .remedy = "calibrate here, let the operator put the file into --schedule-dir, or "
                           "activate it with force"});
}

absl::StatusOr<std::string> Schedules::activate(const std::shared_ptr<const Schedule>& schedule,
                                                bool force) {
  if (const absl::Status status = check_fits(*schedule); !status.ok()) return status;
  if (!force) {
    if (const absl::Status status = check_quality(*schedule); !status.ok()) return status;
  }
  const std::lock_guard lock(file_mutex_);  // the file tells what the engine has
  return make_active(schedule);
}

absl::Status Schedules::activate_after(const std::string& before,
                                       const std::shared_ptr<const Schedule>& schedule) {
  if (const absl::Status status = check_fits(*schedule); !status.ok()) return status;
  if (const absl::Status status = check_quality(*schedule); !status.ok()) return status;
  const std::lock_guard lock(file_mutex_);
  const auto now = engine_.active_schedule();
  if (const std::string id = now ? now->schedule_id : ""; id != before) {
    return absl::AbortedError(id.empty()
                                  ? "the active schedule was deactivated meanwhile"
                                  : absl::StrCat("schedule ", id, " was activated meanwhile"));
  }
  return make_active(schedule).status();
}

absl::StatusOr<std::string> Schedules::make_active(
    const std::shared_ptr<const Schedule>& schedule) {
  const std::string& id = schedule->schedule_id;
  std::string file;
  if (!directory_.empty()) {
    file = file_of(id).string();
    absl::Status status = save_schedule(*schedule, file);
    if (status.ok()) status = write_active(schedule.get());
    if (!status.ok()) {
      // As far as the disk allows, a restart finds what is active now, and no schedule more.
      if (!find(id).ok()) remove_durably(file).IgnoreError();
      write_active(engine_.active_schedule().get()).IgnoreError();
      return absl::InternalError(absl::StrCat(
          "schedule ", id, " is not activated, since it cannot be saved: ", message_of(status)));
    }
  }
  KASCADE_CHECK(engine_.activate(schedule).ok());  // it fits
  tell_active(*schedule, engine_.model().context);
  keep(schedule);
  return file;
}

absl::Status Schedules::write_active(const Schedule* schedule) const {
  const std::filesystem::path file = directory_ / kActiveFile;
  return schedule == nullptr ? remove_durably(file) : save_schedule(*schedule, file);
}

absl::StatusOr<std::string> Schedules::deactivate() {
  const std::lock_guard lock(file_mutex_);
  const auto active = engine_.active_schedule();
  if (!directory_.empty()) {
    const absl::Status status = write_active(nullptr);
    if (!status.ok()) {
      write_active(active.get()).IgnoreError();
      return absl::InternalError(
          absl::StrCat("the schedule is still active, since a restart would bring it back: ",
                       message_of(status)));
    }
  }
  KASCADE_CHECK(engine_.activate(nullptr).ok());
  return active ? active->schedule_id : "";
}

absl::Status Schedules::remove(const std::string& schedule_id) {
  const std::lock_guard lock(file_mutex_);
  if (const auto found = find(schedule_id); !found.ok()) return found.status();
  if (const auto active = engine_.active_schedule(); active && active->schedule_id == schedule_id) {
    return refuse(absl::StatusCode::kFailedPrecondition,
                  absl::StrCat("schedule ", schedule_id, " is active"),
                  {.reason = reason::kPrecondition,
                   .subject = schedule_id,
                   .remedy = "deactivate it, or activate another one first",
                   .details = {{"schedule_id", schedule_id}}});
  }
  if (const absl::Status status = remove_files(schedule_id); !status.ok()) {
    return absl::InternalError(
        absl::StrCat("schedule ", schedule_id, " is still held: ", message_of(status)));
  }
  const std::lock_guard schedules_lock(mutex_);
  std::erase_if(schedules_,
                [&](const Held& held) { return held.schedule->schedule_id == schedule_id; });
  return absl::OkStatus();
}

absl::Status Schedules::remove_files(const std::string& schedule_id) {
  if (directory_.empty()) return absl::OkStatus();
  const auto [begin, end] = other_files_.equal_range(schedule_id);
  for (auto it = begin; it != end; ++it) {
    if (absl::Status status = remove_durably(it->second); !status.ok()) return status;
  }
  other_files_.erase(begin, end);
  return remove_durably(file_of(schedule_id));
}

absl::StatusOr<std::shared_ptr<const Schedule>> Schedules::find(
    std::string_view schedule_id) const {
  const std::lock_guard lock(mutex_);
  for (const Held& held : schedules_) {
    if (held.schedule->schedule_id == schedule_id) return held.schedule;
  }
  return refuse(
      absl::StatusCode::kNotFound,
      absl::StrCat("no schedule has the id \"", std::string(schedule_id), "\""),
      {.reason = reason::kNotFound, .details = {{"schedule_id", std::string(schedule_id)}}});
}

absl::StatusOr<std::shared_ptr<const Schedule>> Schedules::find_fitting(
    std::string_view schedule_id) const {
  auto schedule = find(schedule_id);
  if (!schedule.ok()) return schedule.status();
  if (absl::Status status = check_fits(**schedule); !status.ok()) return status;
  return schedule;
}

std::vector<std::shared_ptr<const Schedule>> Schedules::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<const Schedule>> out;
  for (auto held = schedules_.rbegin(); held != schedules_.rend(); ++held) {
    out.push_back(held->schedule);
  }
  return out;
}

std::filesystem::path Schedules::file_of(const std::string& schedule_id) const {
  return directory_ / (schedule_id + ".json");
}

void Schedules::keep(std::shared_ptr<const Schedule> schedule) {
  const auto bytes = static_cast<int64_t>(to_json(*schedule).size());
  std::vector<std::string> dropped;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(schedules_, [&](const Held& other) {
      return other.schedule->schedule_id == schedule->schedule_id;
    });
    schedules_.push_back({std::move(schedule), bytes});
    dropped = drop_oldest();
  }
  if (directory_.empty()) return;
  for (const std::string& id : dropped) {
    const absl::Status status = remove_durably(file_of(id));
    if (!status.ok())
      spdlog::warn("schedule {} is dropped, its file not: {}", id, message_of(status));
  }
}

std::vector<std::string> Schedules::drop_oldest() {
  int64_t bytes = 0;
  for (const Held& held : schedules_) bytes += held.bytes;
  const auto active = engine_.active_schedule();
  std::vector<std::string> dropped;
  while (schedules_.size() > kMaxSchedules || bytes > kMaxScheduleBytesInAll) {
    const auto newest = schedules_.end() - 1;  // stays
    const auto oldest = std::find_if(schedules_.begin(), newest, [&](const Held& held) {
      return active == nullptr || held.schedule->schedule_id != active->schedule_id;
    });
    if (oldest == newest) break;
    bytes -= oldest->bytes;
    dropped.push_back(oldest->schedule->schedule_id);
    schedules_.erase(oldest);
  }
  return dropped;
}

absl::Status Schedules::check_owner(const Schedule& schedule) const {
  const ModelIdentity& model = engine_.identity();
  const absl::Status status = check_model(schedule, model);
  if (status.ok()) return engine_.check_cache(schedule.selection);
  return mismatch(status, {{"schedule_id", schedule.schedule_id},
                           {"schedule_weights_digest", schedule.model.weights_digest},
                           {"model_weights_digest", model.weights_digest},
                           {"schedule_config_digest", schedule.model.config_digest},
                           {"model_config_digest", model.config_digest},
                           {"schedule_tokenizer_digest", schedule.model.tokenizer_digest},
                           {"model_tokenizer_digest", model.tokenizer_digest}});
}

absl::Status Schedules::check_fits(const Schedule& schedule) const {
  if (absl::Status status = check_owner(schedule); !status.ok()) return status;
  const ModelConfig& model = engine_.model();
  const absl::Status status = validate(schedule, {model.layers, model.kv_heads});
  if (status.ok()) return status;
  return mismatch(status, {{"schedule_id", schedule.schedule_id}});
}

}  // namespace kascade::core
