#include "client/rpc/failure.h"

#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <string_view>

#include "kascade/v1/error_details.pb.h"

namespace kascade::client {
namespace {

// The details have google.rpc type URLs, but the messages here are our own definitions, which are
// compatible on the wire only. Any::UnpackTo compares names, so it cannot be used.
template <typename Message>
bool unpack(const google::protobuf::Any& any, std::string_view name, Message* message) {
  return std::string_view(any.type_url()).ends_with(name) && message->ParseFromString(any.value());
}

// Appends `part` unless the message contains it already.
void add(std::string& message, const std::string& part) {
  if (part.empty() || message.find(part) != std::string::npos) return;
  message += message.empty() ? part : "; " + part;
}

void add_detail(const google::protobuf::Any& any, std::string& message) {
  v1::BadRequest bad;
  v1::PreconditionFailure precondition;
  v1::RetryInfo retry;
  if (unpack(any, "/google.rpc.BadRequest", &bad)) {
    for (const auto& violation : bad.field_violations()) {
      if (message.find(violation.field()) == std::string::npos) {
        add(message, violation.field() + ": " + violation.description());
      } else {
        add(message, violation.description());
      }
    }
  } else if (unpack(any, "/google.rpc.PreconditionFailure", &precondition)) {
    for (const auto& violation : precondition.violations()) add(message, violation.description());
  } else if (unpack(any, "/google.rpc.RetryInfo", &retry)) {
    const auto& delay = retry.retry_delay();
    const double seconds = static_cast<double>(delay.seconds()) + delay.nanos() * 1e-9;
    if (seconds > 0) add(message, fmt::format("try again in {:g} s", seconds));
  }
}

}  // namespace

absl::Status from_grpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  std::string message = status.error_message();
  v1::RpcStatus details;
  if (details.ParseFromString(status.error_details())) {
    for (const auto& any : details.details()) add_detail(any, message);
  }
  return {static_cast<absl::StatusCode>(status.error_code()), message};
}

void print_failure(const absl::Status& status) {
  std::string line = absl::StatusCodeToString(status.code());
  line += ": ";
  for (const char c : status.message()) line += c == '\n' || c == '\r' ? ' ' : c;
  std::fflush(stdout);
  fmt::print(stderr, "kascade: {}\n", line);
}

int fail(const absl::Status& status) {
  print_failure(status);
  return kFailure;
}

}  // namespace kascade::client
