#include "server/grpc/rpc_record.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/grpc/access.h"
#include "server/grpc/errors.h"
#include "spdlog/spdlog.h"

namespace kascade::server {
namespace {

// The status as the client is to hear it.
absl::Status told(const absl::Status& status, const ServerContext& context) {
  // What the engine ends because the server goes down, the client may send elsewhere.
  if (absl::IsCancelled(status) && context.draining) {
    return absl::UnavailableError("the server is going down");
  }
  return status;
}

// Whether the server refused the request, instead of failing at it or being asked to stop.
bool is_refusal(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAborted:
      return true;
    default:
      return false;
  }
}

}  // namespace

RpcRecord::RpcRecord(ServerContext& context, std::string rpc)
    : context_(context), rpc_(std::move(rpc)), arrival_(absl::Now()) {
  context_.requests.enter();
  context_.metrics.rpc_in_flight.Increment();
}

RpcRecord::~RpcRecord() {
  context_.metrics.rpc_in_flight.Decrement();
  context_.requests.leave();
}

absl::Status RpcRecord::admit(const grpc::ServerContextBase& call) {
  caller_ = peer_without_port(call.peer());
  auto admitted = server::admit(context_, call, rpc_);
  if (!admitted.ok()) return admitted.status();
  if (!admitted->token_name.empty()) caller_ = std::move(admitted->token_name);
  in_flight_ = std::move(admitted->in_flight);
  return absl::OkStatus();
}

grpc::Status RpcRecord::finish(const absl::Status& status, grpc::ServerContextBase* call) {
  in_flight_.reset();
  const absl::Status end = told(status, context_);
  const Refusal refusal = complete_refusal(end);
  const grpc::Status result = to_grpc(end);
  if (call != nullptr && refusal.retry_after > absl::ZeroDuration()) {
    call->AddTrailingMetadata("grpc-retry-pushback-ms",
                              absl::StrCat(absl::ToInt64Milliseconds(refusal.retry_after)));
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - arrival_);
  context_.metrics.finish_rpc(rpc_, end.code(), seconds);
  if (is_refusal(end)) context_.metrics.count_refusal(refusal.reason);
  if (result.ok()) {
    spdlog::debug("{} OK, {:.3f} s", rpc_, seconds);
  } else if (result.error_code() == grpc::StatusCode::INTERNAL) {
    spdlog::error("{} failed after {:.3f} s: {}", rpc_, seconds, result.error_message());
  } else {
    spdlog::info("{} ended with code {} after {:.3f} s: {}", rpc_,
                 static_cast<int>(result.error_code()), seconds, result.error_message());
  }
  return result;
}

}  // namespace kascade::server
