// The schedules that the server holds, and which one is active. With a directory they survive a
// restart: one file per schedule, and active.json, a copy of the active one.
#ifndef KASCADE_SERVER_CORE_SCHEDULES_H_
#define KASCADE_SERVER_CORE_SCHEDULES_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"

namespace kascade::core {

// Of all schedules that a server keeps in memory, in the form of schedule files.
inline constexpr int64_t kMaxScheduleBytesInAll = int64_t{32} << 20;

class Schedules {
 public:
  // `engine` must outlive the schedules. An empty directory keeps schedules in memory only.
  Schedules(Engine& engine, std::filesystem::path directory);

  // Reads the directory (made if missing) and activates what was active. Files of other models are
  // skipped with a warning. INTERNAL etc.: the directory cannot be made or read.
  absl::Status load();
  // Loads, keeps and activates a file. A schedule that did not pass its quality check is activated
  // too, with a warning in the log, since an operator named the file.
  absl::Status load_active(const std::filesystem::path& file);

  // Keeps the newest 256, of at most kMaxScheduleBytesInAll as JSON, and the active one; the files
  // of others are deleted. Returns the file; empty without a directory. The schedule is kept in
  // memory even if saving fails.
  absl::StatusOr<std::string> add(const std::shared_ptr<const Schedule>& schedule);

  // FAILED_PRECONDITION: another model's or of another shape; or, without `force`, not passed, or
  // never held here. Whatever a schedule from elsewhere says of its quality check, only those count
  // that were made by a calibration here, are an operator's file, or were forced before.
  absl::Status activate(const std::shared_ptr<const Schedule>& schedule, bool force);
  // What a calibration does at its end: activates its schedule if the one that was active when it
  // began, which may be null, still is. ABORTED: an operator has changed that meanwhile.
  absl::Status activate_after(const std::shared_ptr<const Schedule>& before,
                              const std::shared_ptr<const Schedule>& schedule);
  // The id that was active; empty when none was.
  std::string deactivate();

  std::shared_ptr<const Schedule> active() const { return engine_.active_schedule(); }  // or null
  // NOT_FOUND: no schedule has the id.
  absl::StatusOr<std::shared_ptr<const Schedule>> find(std::string_view schedule_id) const;
  // The same, for a request to run by. FAILED_PRECONDITION: another model's or of another shape.
  absl::StatusOr<std::shared_ptr<const Schedule>> find_fitting(std::string_view schedule_id) const;
  std::vector<std::shared_ptr<const Schedule>> list() const;  // newest first

 private:
  std::string file_of(const std::string& schedule_id) const;
  // Returns the ids of those that there is no room for any more.
  std::vector<std::string> keep(std::shared_ptr<const Schedule> schedule);
  bool exceed_bounds() const;                                                 // mutex_ held
  absl::Status make_active(const std::shared_ptr<const Schedule>& schedule);  // file_mutex_ held
  absl::Status check_owner(const Schedule& schedule) const;                   // FAILED_PRECONDITION
  absl::Status check_fits(const Schedule& schedule) const;  // the same, and its shape
  // Whether it may become active without force. FAILED_PRECONDITION.
  absl::Status check_quality(const Schedule& schedule) const;

  Engine& engine_;
  const std::filesystem::path directory_;
  std::mutex file_mutex_;  // guards the directory and which schedule is active; taken first
  // Guards what follows; the engine's thread may wait for it.
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<const Schedule>> schedules_;  // oldest first
  std::set<std::string> verified_;                          // ids of all that were ever kept here
  std::map<std::string, int64_t> bytes_;                    // of each, by id; guarded likewise
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_SCHEDULES_H_
