#include "server/errors.h"

#include <cctype>
#include <optional>
#include <string_view>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/utf8.h"
#include "google/protobuf/any.pb.h"
#include "grpcpp/support/error_details.h"
#include "kascade/v1/error_details.pb.h"

namespace kascade::server {
namespace {

constexpr char kErrorInfo[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kBadRequest[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kRetryInfo[] = "type.googleapis.com/google.rpc.RetryInfo";
constexpr char kPrecondition[] = "type.googleapis.com/google.rpc.PreconditionFailure";

// Clients refuse calls whose metadata exceeds 8 KiB: the message goes there up to three times, once
// percent-encoded.
constexpr size_t kMaxMessageBytes = 512;
constexpr size_t kMaxValueBytes = 128;

constexpr int kQueueRetrySeconds = 1;
constexpr int kDrainRetrySeconds = 5;

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

std::string message_of(const absl::Status& status) {
  return presentable(std::string(status.message()), kMaxMessageBytes);
}

template <typename Detail>
void attach(absl::Status& status, const char* type_url, const Detail& detail) {
  status.SetPayload(type_url, absl::Cord(detail.SerializeAsString()));
}

const char* reason_of(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return reason::kInvalidField;
    case absl::StatusCode::kResourceExhausted:
      return reason::kQueueFull;
    case absl::StatusCode::kFailedPrecondition:
      // Of the engine's own refusals only these two are preconditions.
      return message_of(status).starts_with("mode:") ? reason::kNoSchedule : reason::kCacheTooSmall;
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
      break;
  }
  const bool non_finite = message_of(status).find("finite") != std::string::npos;
  return non_finite ? reason::kNonFinite : reason::kInternal;
}

// The "field" of "field: what"; nullopt when the text before the colon is no path of fields.
std::optional<std::string> field_of(const std::string& message) {
  const size_t colon = message.find(':');
  if (colon == std::string::npos || colon == 0) return std::nullopt;
  for (const char c : message.substr(0, colon)) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) == 0 && std::string_view("_.[]").find(c) == std::string_view::npos) {
      return std::nullopt;
    }
  }
  return message.substr(0, colon);
}

std::string after_field(const std::string& message) {
  const size_t begin = message.find_first_not_of(' ', message.find(':') + 1);
  return begin == std::string::npos ? "" : message.substr(begin);
}

void add_bad_request(absl::Status& status) {
  const std::string message = message_of(status);
  const auto field = field_of(message);
  v1::BadRequest detail;
  auto& violation = *detail.add_field_violations();
  violation.set_field(field.value_or(""));
  violation.set_description(field ? after_field(message) : message);
  attach(status, kBadRequest, detail);
}

void add_retry_info(absl::Status& status, int seconds) {
  v1::RetryInfo detail;
  detail.mutable_retry_delay()->set_seconds(seconds);
  attach(status, kRetryInfo, detail);
}

void add_precondition(absl::Status& status, const std::string& subject, const std::string& remedy) {
  v1::PreconditionFailure detail;
  auto& violation = *detail.add_violations();
  v1::ErrorInfo info;
  if (const auto payload = status.GetPayload(kErrorInfo)) {
    info.ParseFromString(std::string(*payload));
  }
  violation.set_type(info.reason());
  violation.set_subject(presentable(subject, kMaxValueBytes));
  violation.set_description(presentable(remedy, kMaxMessageBytes));
  attach(status, kPrecondition, detail);
}

void add_missing_details(absl::Status& status) {
  status = with_reason(std::move(status), reason_of(status));
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      if (!status.GetPayload(kBadRequest)) add_bad_request(status);
      break;
    case absl::StatusCode::kFailedPrecondition:
      if (!status.GetPayload(kPrecondition)) {
        add_precondition(status, field_of(message_of(status)).value_or(""), message_of(status));
      }
      break;
    case absl::StatusCode::kResourceExhausted:
      if (!status.GetPayload(kRetryInfo)) add_retry_info(status, kQueueRetrySeconds);
      break;
    case absl::StatusCode::kUnavailable:
      if (!status.GetPayload(kRetryInfo)) add_retry_info(status, kDrainRetrySeconds);
      break;
    default:
      break;
  }
}

}  // namespace

absl::Status with_reason(absl::Status status, const char* reason, const ErrorMetadata& metadata) {
  if (status.ok() || status.GetPayload(kErrorInfo)) return status;
  v1::ErrorInfo detail;
  detail.set_reason(reason);
  detail.set_domain("kascade");
  for (const auto& [key, value] : metadata) {
    (*detail.mutable_metadata())[key] = presentable(value, kMaxValueBytes);
  }
  attach(status, kErrorInfo, detail);
  return status;
}

absl::Status invalid_field(const std::string& field, const std::string& what, const char* reason) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, ": ", what));
  v1::BadRequest detail;
  auto& violation = *detail.add_field_violations();
  violation.set_field(presentable(field, kMaxValueBytes));
  violation.set_description(presentable(what, kMaxMessageBytes));
  attach(status, kBadRequest, detail);
  return with_reason(std::move(status), reason);
}

absl::Status failed_precondition(const std::string& message, const char* reason,
                                 const std::string& subject, const std::string& remedy) {
  absl::Status status = with_reason(absl::FailedPreconditionError(message), reason);
  add_precondition(status, subject, remedy);
  return status;
}

absl::Status with_field_prefix(const absl::Status& status, const std::string& prefix) {
  if (status.code() != absl::StatusCode::kInvalidArgument || status.GetPayload(kBadRequest)) {
    return status;
  }
  const std::string message = message_of(status);
  const auto field = field_of(message);
  if (!field) return invalid_field(prefix, message);
  return invalid_field(absl::StrCat(prefix, ".", *field), after_field(message));
}

grpc::Status to_grpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  absl::Status complete = status;
  add_missing_details(complete);
  v1::RpcStatus out;
  out.set_code(static_cast<int>(complete.code()));
  out.set_message(message_of(complete));
  complete.ForEachPayload([&](auto type_url, const absl::Cord& payload) {
    google::protobuf::Any& detail = *out.add_details();
    detail.set_type_url(std::string(type_url));
    detail.set_value(std::string(payload));
  });
  grpc::Status result;
  grpc::SetErrorDetails(out, &result);
  return result;
}

}  // namespace kascade::server
