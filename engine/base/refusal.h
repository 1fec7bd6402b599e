// Refusals as values: why a request was turned down, readable by programs. A refusal travels as a
// payload of the absl::Status that is returned, so that every front end can print it in its own
// dialect. Also the checks of ranges that all validators share.
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

// Values of Refusal::reason; proto/kascade/v1/error_details.proto says what each means.
namespace reason {
inline constexpr char kInvalidField[] = "INVALID_FIELD";
inline constexpr char kUnknownToken[] = "UNKNOWN_TOKEN";
inline constexpr char kTooLong[] = "TOO_LONG";
inline constexpr char kQueueFull[] = "QUEUE_FULL";
inline constexpr char kCacheTooSmall[] = "CACHE_TOO_SMALL";
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
  std::string reason{};  // one of the above
  // Path of the field at fault, in the words of the struct that was refused; empty: no field's
  // fault. The status' message is then "field: description".
  std::string field{};
  // Of a precondition: what it is about (such as a schedule's id), and what to do.
  std::string subject{};
  std::string remedy{};
  absl::Duration retry_after = absl::ZeroDuration();           // zero: there is no sense in waiting
  std::vector<std::pair<std::string, std::string>> details{};  // figures and ids by name
};

// A status that carries `refusal`. `code` must not be OK.
absl::Status refuse(absl::StatusCode code, const std::string& message, const Refusal& refusal);
// What a status carries; nothing for a status that was not made by refuse().
std::optional<Refusal> refusal_of(const absl::Status& status);

// INVALID_ARGUMENT "field: description".
absl::Status invalid_field(const std::string& field, const std::string& description,
                           const char* reason = reason::kInvalidField);
std::string message_of(const absl::Status& status);
// The description of a status with a field: its message without "field: ".
std::string description_of(const absl::Status& status, const Refusal& refusal);

// The "a.b[2]" of a message "a.b[2]: what"; nothing where the text before the colon is no path.
std::optional<std::string> field_in(const std::string& message);
// An INVALID_ARGUMENT "field: what" that carries no refusal yet, as one of "prefix.field" (of
// "prefix" where the message names no field). Other statuses stay as they are.
absl::Status below_field(const std::string& prefix, const absl::Status& status);

// OK if low ≤ value ≤ high, which a NaN is not; else INVALID_ARGUMENT "field: must be in [low,
// high], got value".
absl::Status check_range(const std::string& field, double value, double low, double high);
absl::Status check_range(const std::string& field, int64_t value, int64_t low, int64_t high);
inline absl::Status check_range(const std::string& field, int32_t value, int64_t low,
                                int64_t high) {
  return check_range(field, int64_t{value}, low, high);
}
// The same with 0 excluded: (0, high].
absl::Status check_positive(const std::string& field, double value, double high);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BASE_REFUSAL_H_
