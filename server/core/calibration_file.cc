#include "server/core/calibration_file.h"

#include <chrono>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/durable_file.h"
#include "engine/base/refusal.h"
#include "server/core/calibration_records.h"
#include "spdlog/spdlog.h"

namespace kascade::core {
namespace {

// The name of a job's file is its id and this.
constexpr char kExtension[] = ".calibration";
// Names of records. The second one is the request or the end.
constexpr char kHead[] = "calibration";
constexpr char kRequest[] = "request";
constexpr char kEnd[] = "end";
constexpr char kActivate[] = "activate";
constexpr char kResult[] = "result ";

CalibrationHead head_of(const CalibrationJob& job, const Engine& engine) {
  return {.model = engine.identity(),
          .environment = run_environment(engine),
          .started = job.started,
          .began_ns = absl::ToUnixNanos(job.began),
          .active_before = job.active_before};
}

bool is_id(const std::string& name) {
  return name.size() == 20 && name.starts_with("cal-") &&
         name.find_first_not_of("0123456789abcdef", 4) == std::string::npos;
}

// The files of jobs in a directory; those that were not finished are deleted.
std::vector<std::filesystem::path> job_files(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    const std::filesystem::path& file = it->path();
    std::error_code ignored;
    if (is_unfinished(file, kExtension)) {
      std::filesystem::remove(file, ignored);
    } else if (file.extension() == kExtension && is_id(file.stem().string()) &&
               it->is_regular_file(ignored)) {
      files.push_back(file);
    } else {
      spdlog::warn("{} is no calibration and is left out", file.string());
    }
  }
  if (error) spdlog::warn("cannot read {}: {}", directory.string(), error.message());
  return files;
}

// The first of at least two records.
absl::StatusOr<CalibrationHead> read_own_head(const std::vector<FileRecord>& records,
                                              const std::filesystem::path& file,
                                              const Engine& engine) {
  auto head = read_head(records[0].bytes);
  if (!head.ok()) return head.status();
  if (head->started.id != file.stem().string() || records.size() < 2) {
    return absl::DataLossError("its second record is missing, or it was renamed");
  }
  if (head->model != engine.identity()) {
    return absl::FailedPreconditionError(absl::StrCat("it is of the model ", head->model.name));
  }
  return head;
}

CalibrationJobPtr job_of(const CalibrationHead& head) {
  auto job = std::make_shared<CalibrationJob>();
  job->started = head.started;
  job->began = absl::FromUnixNanos(head.began_ns);
  job->active_before = head.active_before;
  return job;
}

// When a file that tells nothing of its job was written.
absl::Time time_of(const std::filesystem::path& file) {
  std::error_code error;
  const auto time = std::filesystem::last_write_time(file, error);
  if (error) return absl::Now();
  return absl::FromChrono(std::chrono::file_clock::to_sys(time));
}

}  // namespace

absl::StatusOr<std::shared_ptr<CalibrationFile>> CalibrationFile::create(
    const std::filesystem::path& directory, const CalibrationJob& job,
    const PreparedCalibration& prepared, const Engine& engine) {
  std::shared_ptr<CalibrationFile> file(
      new CalibrationFile(directory / absl::StrCat(job.id(), kExtension), engine));
  auto records = RecordFile::create(
      file->file_, {{kHead, to_record(head_of(job, engine))}, {kRequest, to_record(prepared)}});
  if (!records.ok()) return records.status();
  file->records_ = *std::move(records);
  return file;
}

absl::StatusOr<StoredCalibration> CalibrationFile::load(const std::filesystem::path& path,
                                                        const Engine& engine) {
  std::vector<FileRecord> records;
  auto opened = RecordFile::open(path, records);
  if (!opened.ok()) return opened.status();
  const auto head = read_own_head(records, path, engine);
  if (!head.ok()) return head.status();
  std::shared_ptr<CalibrationFile> file(new CalibrationFile(path, engine));
  StoredCalibration out{.job = job_of(*head)};
  out.job->file = file;
  if (records[1].name == kEnd) {
    const auto end = read_end(records[1].bytes);
    if (!end.ok()) return end.status();
    out.job->end(*end);
    return out;
  }
  auto prepared = read_request(records[1].bytes, out.job->id(), engine.identity());
  if (!prepared.ok()) return prepared.status();
  for (size_t i = 2; i < records.size(); ++i) {
    if (records[i].name == kActivate) prepared->activate = true;
    if (!records[i].name.starts_with(kResult)) continue;
    file->results_.emplace(records[i].name.substr(sizeof kResult - 1), std::move(records[i].bytes));
  }
  file->records_ = *std::move(opened);
  out.job->continues = true;
  out.job->activate = prepared->activate;
  if (head->environment != run_environment(engine)) {
    spdlog::info("calibration {} begins anew: its results are of {}", out.job->id(),
                 head->environment);
    auto anew = create(path.parent_path(), *out.job, *prepared, engine);
    if (!anew.ok()) return anew.status();
    out.job->file = *std::move(anew);
  }
  out.prepared = *std::move(prepared);
  return out;
}

std::vector<StoredCalibration> CalibrationFile::load_all(const std::filesystem::path& directory,
                                                         const Engine& engine) {
  std::vector<StoredCalibration> out;
  for (const std::filesystem::path& path : job_files(directory)) {
    auto stored = load(path, engine);
    if (stored.ok()) {
      out.push_back(*std::move(stored));
      continue;
    }
    const std::string why = absl::StrCat(path.string(), ": ", message_of(stored.status()));
    spdlog::warn("a calibration is left out: {}", why);
    if (!absl::IsDataLoss(stored.status())) continue;
    auto job = std::make_shared<CalibrationJob>();
    job->started.id = path.stem().string();
    job->began = time_of(path);
    job->file.reset(new CalibrationFile(path, engine));
    job->end({.ended = job->began, .status = absl::DataLossError(why)});
    out.push_back({.job = std::move(job)});
  }
  return out;
}

void CalibrationFile::keep_activate() {
  const std::lock_guard lock(mutex_);
  append({kActivate, ""});
}

const std::string* CalibrationFile::find(const std::string& key) const {
  const std::lock_guard lock(mutex_);
  const auto found = results_.find(key);
  return found == results_.end() ? nullptr : &found->second;
}

void CalibrationFile::keep(const std::string& key, std::string result) {
  const std::lock_guard lock(mutex_);
  append({kResult + key, std::move(result)});
}

void CalibrationFile::append(const FileRecord& record) {
  if (records_ == nullptr) return;
  const absl::Status status = records_->append(record);
  if (status.ok()) return;
  spdlog::warn("a restart would begin anew what the calibration does from now on: {}",
               message_of(status));
  records_.reset();
}

absl::Status CalibrationFile::end(const CalibrationJob& job, const CalibrationEnd& end) {
  const std::lock_guard lock(mutex_);
  records_.reset();
  results_.clear();
  return RecordFile::create(file_,
                            {{kHead, to_record(head_of(job, engine_))}, {kEnd, to_record(end)}})
      .status();
}

absl::Status CalibrationFile::remove() {
  const std::lock_guard lock(mutex_);
  records_.reset();
  return remove_durably(file_);
}

}  // namespace kascade::core
