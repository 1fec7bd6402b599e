// The schedules that the server holds, and which one is active. With a directory they survive a
// restart: one file per schedule, and active.json, a copy of the active one. The functions that
// change something write files; a front end calls them on threads that may wait.
#ifndef KASCADE_SERVER_CORE_SCHEDULES_H_
#define KASCADE_SERVER_CORE_SCHEDULES_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"

namespace kascade::core {

// The most schedules that a server keeps.
inline constexpr size_t kMaxSchedules = 256;
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

  // Keeps the newest kMaxSchedules, of at most kMaxScheduleBytesInAll as JSON, and the active one;
  // the files of others are deleted. Returns the file; empty without a directory. The schedule is
  // kept in memory even if saving fails.
  absl::StatusOr<std::string> add(const std::shared_ptr<const Schedule>& schedule);

  // Saves the schedule and, if that went well, keeps and activates it; returns the file, empty
  // without a directory. After an error the schedule that was active still is, and a restart brings
  // that one back. FAILED_PRECONDITION: another model's or of another shape; or, without `force`,
  // not passed, or not held here. Whatever a schedule from elsewhere says of its quality check,
  // only those count that were made by a calibration here, are an operator's file, or were forced
  // before, and are still held. INTERNAL: it cannot be saved.
  absl::StatusOr<std::string> activate(const std::shared_ptr<const Schedule>& schedule, bool force);
  // What a calibration does at its end: activates its schedule if the one that was active when it
  // began, `before`, which may be empty, still is. ABORTED: an operator has changed that meanwhile.
  absl::Status activate_after(const std::string& before,
                              const std::shared_ptr<const Schedule>& schedule);
  // The id that was active; empty when none was. INTERNAL: the file that says so cannot be removed,
  // and the schedule is still active.
  absl::StatusOr<std::string> deactivate();
  // Forgets a schedule, with its files; requests that run by it go on. NOT_FOUND.
  // FAILED_PRECONDITION: it is active. INTERNAL: a file cannot be removed, and the schedule is
  // still held.
  absl::Status remove(const std::string& schedule_id);

  std::shared_ptr<const Schedule> active() const { return engine_.active_schedule(); }  // or null
  // NOT_FOUND: no schedule has the id.
  absl::StatusOr<std::shared_ptr<const Schedule>> find(std::string_view schedule_id) const;
  // The same, for a request to run by. FAILED_PRECONDITION: another model's or of another shape.
  absl::StatusOr<std::shared_ptr<const Schedule>> find_fitting(std::string_view schedule_id) const;
  std::vector<std::shared_ptr<const Schedule>> list() const;  // newest first

 private:
  struct Held {
    std::shared_ptr<const Schedule> schedule{};
    int64_t bytes = 0;  // as JSON
  };

  std::filesystem::path file_of(const std::string& schedule_id) const;
  // Activates what active.json holds. The errors of load_schedule() and check_fits().
  absl::Status restore_active();
  // Keeps a schedule in memory, and deletes the files of those that there is no room for any more.
  // file_mutex_ held, as with those below.
  void keep(std::shared_ptr<const Schedule> schedule);
  absl::StatusOr<std::string> make_active(const std::shared_ptr<const Schedule>& schedule);
  // Writes active.json, or removes it for null.
  absl::Status write_active(const Schedule* schedule) const;
  absl::Status remove_files(const std::string& schedule_id);
  // Drops the oldest and returns their ids. mutex_ held.
  std::vector<std::string> drop_oldest();
  absl::Status check_owner(const Schedule& schedule) const;  // FAILED_PRECONDITION
  absl::Status check_fits(const Schedule& schedule) const;   // the same, and its shape
  // Whether it may become active without force. FAILED_PRECONDITION.
  absl::Status check_quality(const Schedule& schedule) const;

  Engine& engine_;
  const std::filesystem::path directory_;
  std::mutex file_mutex_;  // guards the directory and which schedule is active; taken first
  // Files of an operator, by the id of their schedule, that are not named by it.
  std::multimap<std::string, std::filesystem::path> other_files_;
  // Guards what follows; the engine's thread may wait for it.
  mutable std::mutex mutex_;
  std::vector<Held> schedules_;  // oldest first
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_SCHEDULES_H_
