// Refusals of the core as gRPC statuses with google.rpc details, and names of the core's fields as
// paths of the wire's messages.
#ifndef KASCADE_SERVER_GRPC_ERRORS_H_
#define KASCADE_SERVER_GRPC_ERRORS_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/refusal.h"
#include "grpcpp/support/status.h"

namespace kascade::server {

// `core` is one or more parts of a field's path in the core's or the engine's words, such as
// "stop_tokens" or "attention.schedule"; one that ends with "[" stands for an element of a list.
struct FieldName {
  std::string_view core;
  std::string_view wire;
};

// `status` with its field as a client knows it: each of the names, in their order, replaces the
// parts of the path that it stands for.
absl::Status with_wire_field(const absl::Status& status, std::span<const FieldName> names);

// What the status carries, and what follows from its code where it carries nothing.
Refusal complete_refusal(const absl::Status& status);

// Details that a status does not carry follow from its code: an ErrorInfo always; BadRequest with
// INVALID_ARGUMENT, PreconditionFailure with FAILED_PRECONDITION, RetryInfo with RESOURCE_EXHAUSTED
// and UNAVAILABLE. Messages are cut to what fits a call's metadata.
grpc::Status to_grpc(const absl::Status& status);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_ERRORS_H_
