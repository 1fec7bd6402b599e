#include "server/grpc/errors.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer/utf8.h"
#include "google/protobuf/any.pb.h"
#include "grpcpp/support/error_details.h"
#include "kascade/v1/error_details.pb.h"

namespace kascade::server {
namespace {

// Clients refuse calls whose metadata exceeds 8 KiB: the message goes there up to three times, once
// percent-encoded.
constexpr size_t kMaxMessageBytes = 512;
constexpr size_t kMaxValueBytes = 128;

constexpr char kNoScheduleRemedy[] =
    "make one with CalibrationService.Calibrate, or activate one with "
    "CalibrationService.ActivateSchedule";

constexpr absl::Duration kOverloadRetry = absl::Seconds(1);
// Another server takes the request at once. Where there is none, the next one takes seconds to
// start.
constexpr absl::Duration kDrainRetry = absl::Seconds(1);

// At most `limit` bytes and UTF-8: what is not UTF-8 could not be parsed by the client. Messages
// may quote what was sent, or the name of a file.
std::string presentable(std::string_view text, size_t limit) {
  std::string out;
  while (!text.empty()) {
    const bpe::Utf8Unit unit = bpe::first_utf8_unit(text);
    const bool valid = unit.kind == bpe::Utf8Unit::Kind::kCharacter;
    const std::string_view shown = valid ? text.substr(0, unit.length) : "?";
    if (out.size() + shown.size() > limit) return out + "…";
    out += shown;
    text.remove_prefix(unit.length);
  }
  return out;
}

const char* reason_of(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return reason::kInvalidField;
    case absl::StatusCode::kResourceExhausted:
      return reason::kOverloaded;
    case absl::StatusCode::kFailedPrecondition:
      return reason::kPrecondition;
    case absl::StatusCode::kUnavailable:
      return reason::kDraining;
    case absl::StatusCode::kNotFound:
      return reason::kNotFound;
    case absl::StatusCode::kCancelled:
      return reason::kCancelled;
    case absl::StatusCode::kDeadlineExceeded:
      return reason::kDeadline;
    case absl::StatusCode::kUnimplemented:
      return reason::kUnimplemented;
    default:
      return reason::kInternal;
  }
}

template <typename Detail>
void add_detail(const char* name, const Detail& detail, v1::RpcStatus& out) {
  google::protobuf::Any& any = *out.add_details();
  any.set_type_url(absl::StrCat("type.googleapis.com/google.rpc.", name));
  any.set_value(detail.SerializeAsString());
}

v1::ErrorInfo error_info(const Refusal& refusal) {
  v1::ErrorInfo info;
  info.set_reason(refusal.reason);
  info.set_domain("kascade");
  for (const auto& [name, value] : refusal.details) {
    (*info.mutable_metadata())[name] = presentable(value, kMaxValueBytes);
  }
  return info;
}

v1::BadRequest bad_request(const absl::Status& status, const Refusal& refusal) {
  v1::BadRequest out;
  auto& violation = *out.add_field_violations();
  violation.set_field(presentable(refusal.field, kMaxValueBytes));
  violation.set_description(presentable(description_of(status, refusal), kMaxMessageBytes));
  return out;
}

v1::PreconditionFailure precondition_failure(const Refusal& refusal) {
  v1::PreconditionFailure out;
  auto& violation = *out.add_violations();
  violation.set_type(refusal.reason);
  violation.set_subject(presentable(refusal.subject, kMaxValueBytes));
  violation.set_description(presentable(refusal.remedy, kMaxMessageBytes));
  return out;
}

v1::RetryInfo retry_info(absl::Duration delay) {
  v1::RetryInfo out;
  const int64_t seconds = absl::ToInt64Seconds(delay);
  out.mutable_retry_delay()->set_seconds(seconds);
  out.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(delay - absl::Seconds(seconds))));
  return out;
}

bool is_border(char c) { return c == '.' || c == '['; }

// Where the parts `core` begin in `path`; npos: nowhere.
size_t find_parts(std::string_view path, std::string_view core) {
  for (size_t at = path.find(core); at != std::string_view::npos; at = path.find(core, at + 1)) {
    const size_t end = at + core.size();
    const bool begins = at == 0 || path[at - 1] == '.';
    const bool ends = core.ends_with('[') || end == path.size() || is_border(path[end]);
    if (begins && ends) return at;
  }
  return std::string_view::npos;
}

}  // namespace

absl::Status with_wire_field(const absl::Status& status, std::span<const FieldName> names) {
  auto refusal = refusal_of(status);
  if (!refusal || refusal->field.empty()) return status;
  const std::string description = description_of(status, *refusal);
  for (const FieldName& name : names) {
    const size_t at = find_parts(refusal->field, name.core);
    if (at == std::string::npos) continue;
    refusal->field.replace(at, name.core.size(), name.wire);
  }
  return refuse(status.code(), absl::StrCat(refusal->field, ": ", description), *refusal);
}

Refusal complete_refusal(const absl::Status& status) {
  Refusal refusal = refusal_of(status).value_or(Refusal{});
  if (refusal.reason.empty()) {
    refusal.reason = reason_of(status.code());
    refusal.field = field_in(message_of(status)).value_or("");
  }
  if (refusal.subject.empty() && refusal.remedy.empty()) {
    refusal.subject = refusal.field;
    refusal.remedy = message_of(status);
  }
  if (refusal.reason == reason::kNoSchedule) refusal.remedy = kNoScheduleRemedy;
  if (refusal.retry_after == absl::ZeroDuration()) {
    if (absl::IsResourceExhausted(status)) refusal.retry_after = kOverloadRetry;
    if (absl::IsUnavailable(status)) refusal.retry_after = kDrainRetry;
  }
  return refusal;
}

grpc::Status to_grpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const Refusal refusal = complete_refusal(status);
  v1::RpcStatus out;
  out.set_code(static_cast<int>(status.code()));
  out.set_message(presentable(message_of(status), kMaxMessageBytes));
  add_detail("ErrorInfo", error_info(refusal), out);
  if (absl::IsInvalidArgument(status)) add_detail("BadRequest", bad_request(status, refusal), out);
  if (absl::IsFailedPrecondition(status)) {
    add_detail("PreconditionFailure", precondition_failure(refusal), out);
  }
  if (refusal.retry_after > absl::ZeroDuration()) {
    add_detail("RetryInfo", retry_info(refusal.retry_after), out);
  }
  grpc::Status result;
  grpc::SetErrorDetails(out, &result);
  return result;
}

}  // namespace kascade::server
