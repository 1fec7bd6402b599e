#include "server/core/schedules.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "spdlog/spdlog.h"

namespace kascade::core {
namespace {

// Beside the reasons of engine/base/refusal.h: the engine runs whatever schedule it is given.
constexpr char kScheduleNotVerified[] = "SCHEDULE_NOT_VERIFIED";
constexpr size_t kMaxSchedules = 256;
constexpr char kActiveFile[] = "active.json";

// Half-written files of a process that was killed (save_schedule).
bool is_left_over(const std::filesystem::path& file) {
  const std::string name = file.filename().string();
  return name.starts_with(".") && name.find(".json.") != std::string::npos;
}

// Deletes what is left over.
std::vector<std::filesystem::path> schedule_files(const std::filesystem::path& directory,
                                                  std::error_code& error) {
  std::vector<std::filesystem::path> files;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;
    if (is_left_over(it->path())) std::filesystem::remove(it->path(), ignored);
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
  std::vector<std::shared_ptr<const Schedule>> loaded;
  for (const auto& file : files) {
    auto schedule = load_schedule(file);
    const absl::Status status = schedule.ok() ? check_owner(*schedule) : schedule.status();
    if (status.ok()) {
      loaded.push_back(std::make_shared<const Schedule>(*std::move(schedule)));
    } else {
      spdlog::warn("schedule {} is left out: {}", file.string(), message_of(status));
    }
  }
  std::stable_sort(loaded.begin(), loaded.end(),
                   [](const auto& a, const auto& b) { return a->created_at < b->created_at; });
  for (auto& schedule : loaded) keep(std::move(schedule));
  if (!std::filesystem::exists(directory_ / kActiveFile, error)) return absl::OkStatus();
  // After a change of model the old schedule must not keep the server from starting.
  if (const absl::Status status = load_active(directory_ / kActiveFile); !status.ok()) {
    spdlog::warn("no schedule is active: {}", message_of(status));
  }
  return absl::OkStatus();
}

absl::Status Schedules::load_active(const std::filesystem::path& file) {
  auto loaded = load_schedule(file);
  if (!loaded.ok()) return loaded.status();
  auto schedule = std::make_shared<const Schedule>(*std::move(loaded));
  if (!schedule->quality.passed) {
    spdlog::warn("schedule {} did not pass its quality check", schedule->schedule_id);
  }
  if (const absl::Status status = activate(schedule, /*force=*/true); !status.ok()) return status;
  return add(schedule).status();
}

absl::StatusOr<std::string> Schedules::add(const std::shared_ptr<const Schedule>& schedule) {
  const std::string file = file_of(schedule->schedule_id);
  const std::lock_guard lock(file_mutex_);
  const std::vector<std::string> dropped = keep(schedule);
  if (file.empty()) return file;
  std::error_code ignored;  // a file may be gone, or have another name if an operator put it there
  for (const std::string& id : dropped) std::filesystem::remove(file_of(id), ignored);
  if (const absl::Status status = save_schedule(*schedule, file); !status.ok()) return status;
  return file;
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
  const std::lock_guard lock(mutex_);
  if (verified_.contains(id)) return absl::OkStatus();
  return refuse(absl::StatusCode::kFailedPrecondition,
                absl::StrCat("schedule ", id,
                             " was not made by this server, which knows of its "
                             "quality check only what the file claims"),
                {.reason = kScheduleNotVerified,
                 .subject = id,
                 .remedy = "calibrate here, let the operator put the file into --schedule-dir, or "
                           "activate it with force"});
}

absl::Status Schedules::activate(const std::shared_ptr<const Schedule>& schedule, bool force) {
  if (const absl::Status status = check_fits(*schedule); !status.ok()) return status;
  if (!force) {
    if (const absl::Status status = check_quality(*schedule); !status.ok()) return status;
  }
  const std::lock_guard lock(file_mutex_);  // the file tells what the engine has
  return make_active(schedule);
}

absl::Status Schedules::activate_after(const std::shared_ptr<const Schedule>& before,
                                       const std::shared_ptr<const Schedule>& schedule) {
  if (const absl::Status status = check_fits(*schedule); !status.ok()) return status;
  if (const absl::Status status = check_quality(*schedule); !status.ok()) return status;
  const std::lock_guard lock(file_mutex_);
  if (const auto now = engine_.active_schedule(); now != before) {
    return absl::AbortedError(
        now == nullptr ? "the active schedule was deactivated meanwhile"
                       : absl::StrCat("schedule ", now->schedule_id, " was activated meanwhile"));
  }
  return make_active(schedule);
}

absl::Status Schedules::make_active(const std::shared_ptr<const Schedule>& schedule) {
  if (const absl::Status status = engine_.activate(schedule); !status.ok()) {
    return mismatch(status, {{"schedule_id", schedule->schedule_id}});
  }
  spdlog::info("schedule {} is active", schedule->schedule_id);
  const std::string warning = savings_warning(*schedule, engine_.model().context);
  if (!warning.empty()) spdlog::warn("{}", warning);
  if (directory_.empty()) return absl::OkStatus();
  const absl::Status saved = save_schedule(*schedule, directory_ / kActiveFile);
  if (!saved.ok()) spdlog::error("a restart will not keep the schedule: {}", message_of(saved));
  return absl::OkStatus();
}

std::string Schedules::deactivate() {
  const std::lock_guard lock(file_mutex_);
  const auto active = engine_.active_schedule();
  const absl::Status status = engine_.activate(nullptr);
  if (!status.ok()) spdlog::error("deactivating failed: {}", message_of(status));
  if (!directory_.empty()) {
    std::error_code error;
    std::filesystem::remove(directory_ / kActiveFile, error);
    if (error) spdlog::error("a restart will bring the schedule back: {}", error.message());
  }
  return active ? active->schedule_id : "";
}

absl::StatusOr<std::shared_ptr<const Schedule>> Schedules::find(
    std::string_view schedule_id) const {
  const std::lock_guard lock(mutex_);
  for (const auto& schedule : schedules_) {
    if (schedule->schedule_id == schedule_id) return schedule;
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
  return {schedules_.rbegin(), schedules_.rend()};
}

std::string Schedules::file_of(const std::string& schedule_id) const {
  return directory_.empty() ? "" : (directory_ / (schedule_id + ".json")).string();
}

std::vector<std::string> Schedules::keep(std::shared_ptr<const Schedule> schedule) {
  const auto size = static_cast<int64_t>(to_json(*schedule).size());
  const std::lock_guard lock(mutex_);
  const auto same = [&](const auto& other) { return other->schedule_id == schedule->schedule_id; };
  std::erase_if(schedules_, same);
  verified_.insert(schedule->schedule_id);
  bytes_[schedule->schedule_id] = size;
  schedules_.push_back(std::move(schedule));
  std::vector<std::string> dropped;
  while (schedules_.size() > 1 && exceed_bounds()) {
    const auto active = engine_.active_schedule();
    // The newest is the last one and stays.
    const auto oldest =
        std::find_if(schedules_.begin(), schedules_.end() - 1, [&](const auto& other) {
          return active == nullptr || other->schedule_id != active->schedule_id;
        });
    if (oldest == schedules_.end() - 1) break;
    bytes_.erase((*oldest)->schedule_id);
    dropped.push_back((*oldest)->schedule_id);
    schedules_.erase(oldest);
  }
  return dropped;
}

bool Schedules::exceed_bounds() const {
  int64_t bytes = 0;
  for (const auto& [id, size] : bytes_) bytes += size;
  return schedules_.size() > kMaxSchedules || bytes > kMaxScheduleBytesInAll;
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
