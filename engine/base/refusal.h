// The reasons of errors as values that programs can read. A Refusal travels as a payload of the
// absl::Status, so that every front end can report it in its own format. The range checks that all
// validators share are here too.
#ifndef KASCADE_ENGINE_BASE_REFUSAL_H_
#define KASCADE_ENGINE_BASE_REFUSAL_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kascade {

// The values of Refusal::reason. proto/kascade/v1/error_details.proto defines what each means.
namespace reason {
inline constexpr char kInvalidField[] = "INVALID_FIELD";
inline constexpr char kUnknownToken[] = "UNKNOWN_TOKEN";
inline constexpr char kTooLong[] = "TOO_LONG";
inline constexpr char kQueueFull[] = "QUEUE_FULL";
inline constexpr char kQueuedTokens[] = "QUEUED_TOKENS";
inline constexpr char kWaitTooLong[] = "WAIT_TOO_LONG";
inline constexpr char kOverloaded[] = "OVERLOADED";
inline constexpr char kCacheTooSmall[] = "CACHE_TOO_SMALL";
inline constexpr char kTooManyRuns[] = "TOO_MANY_RUNS";
inline constexpr char kPrecondition[] = "PRECONDITION";
inline constexpr char kDraining[] = "DRAINING";
inline constexpr char kNoSchedule[] = "NO_SCHEDULE";
inline constexpr char kScheduleMismatch[] = "SCHEDULE_MISMATCH";
inline constexpr char kScheduleNotPassed[] = "SCHEDULE_NOT_PASSED";
inline constexpr char kNoChatFormat[] = "NO_CHAT_FORMAT";
inline constexpr char kNotFound[] = "NOT_FOUND";
inline constexpr char kCalibrationRunning[] = "CALIBRATION_RUNNING";
inline constexpr char kCancelled[] = "CANCELLED";
inline constexpr char kDeadline[] = "DEADLINE";
inline constexpr char kNonFinite[] = "NON_FINITE";
inline constexpr char kUnimplemented[] = "UNIMPLEMENTED";
inline constexpr char kInternal[] = "INTERNAL";
}  // namespace reason

struct Refusal {
  std::string reason{};  // one of the values in namespace reason
  // The path of the invalid field, in the names of the struct that was refused. The message of the
  // status is then "field: description". Empty if no field is at fault.
  std::string field{};
  // For a failed precondition: the object that it concerns (such as the id of a schedule), and what
  // the user can do.
  std::string subject{};
  std::string remedy{};
  absl::Duration retry_after = absl::ZeroDuration();           // zero: waiting does not help
  std::vector<std::pair<std::string, std::string>> details{};  // numbers and ids by name
};

// Makes a status that carries `refusal`. `code` must not be OK.
absl::Status refuse(absl::StatusCode code, const std::string& message, const Refusal& refusal);
// The refusal that a status carries; unset if the status was not made by refuse().
std::optional<Refusal> refusal_of(const absl::Status& status);

// Makes INVALID_ARGUMENT "field: description".
absl::Status invalid_field(const std::string& field, const std::string& description,
                           const char* reason = reason::kInvalidField);
std::string message_of(const absl::Status& status);
// The message of a status without its "field: ".
std::string description_of(const absl::Status& status, const Refusal& refusal);

// The "a.b[2]" of a message "a.b[2]: description"; unset if the text before the colon is not a
// path.
std::optional<std::string> field_in(const std::string& message);
// Adds a prefix to the field of an INVALID_ARGUMENT "field: description" that carries no refusal
// yet: it becomes "prefix.field: description", or "prefix: description" if the message names no
// field. Other statuses are returned as they are.
absl::Status below_field(const std::string& prefix, const absl::Status& status);

// OK if low ≤ value ≤ high, which is false for a NaN. Otherwise INVALID_ARGUMENT "field: must be in
// [low, high], got value".
absl::Status check_range(const std::string& field, double value, double low, double high);
absl::Status check_range(const std::string& field, int64_t value, int64_t low, int64_t high);
inline absl::Status check_range(const std::string& field, int32_t value, int64_t low,
                                int64_t high) {
  return check_range(field, int64_t{value}, low, high);
}
// The same for the range (0, high].
absl::Status check_positive(const std::string& field, double value, double high);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BASE_REFUSAL_H_
