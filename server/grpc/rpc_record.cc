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
  if (!absl::IsResourceExhausted(status)) return status;
  Refusal refusal = refusal_of(status).value_or(Refusal{.reason = reason::kQueueFull});
  if (!refusal.details.empty()) return status;
  refusal.details.emplace_back("waiting", absl::StrCat(context.engine.stats().waiting));
  refusal.details.emplace_back("max_queue", absl::StrCat(context.limits.max_queue));
  return refuse(status.code(), message_of(status), refusal);
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

grpc::Status RpcRecord::finish(const absl::Status& status) {
  in_flight_.reset();
  const absl::Status end = told(status, context_);
  const grpc::Status result = to_grpc(end);
  const double seconds = absl::ToDoubleSeconds(absl::Now() - arrival_);
  context_.metrics.finish_rpc(rpc_, end.code(), seconds);
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
