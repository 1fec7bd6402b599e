// Failures on their way to the client: an absl::Status carries google.rpc details as payloads, and
// to_grpc() puts them into the call's trailing metadata.
#ifndef KASCADE_SERVER_ERRORS_H_
#define KASCADE_SERVER_ERRORS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace kascade::server {

// ErrorInfo.reason (proto/kascade/v1/error_details.proto says what each means).
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

using ErrorMetadata = std::vector<std::pair<std::string, std::string>>;

// Adds ErrorInfo; keeps the one that is there.
absl::Status with_reason(absl::Status status, const char* reason,
                         const ErrorMetadata& metadata = {});

// INVALID_ARGUMENT "field: what" with BadRequest naming the field.
absl::Status invalid_field(const std::string& field, const std::string& what,
                           const char* reason = reason::kInvalidField);

// FAILED_PRECONDITION with PreconditionFailure.
absl::Status failed_precondition(const std::string& message, const char* reason,
                                 const std::string& subject, const std::string& remedy);

// Puts `prefix` before the field that the engine names in an INVALID_ARGUMENT ("field: what").
absl::Status with_field_prefix(const absl::Status& status, const std::string& prefix);

// Details that a status lacks follow from its code.
grpc::Status to_grpc(const absl::Status& status);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_ERRORS_H_
