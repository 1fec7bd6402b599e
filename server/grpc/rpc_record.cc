#include "server/grpc/rpc_record.h"

#include <iterator>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/clock.h"
#include "server/grpc/access.h"
#include "server/grpc/errors.h"
#include "server/grpc/load_report.h"
#include "server/log/record.h"
#include "spdlog/common.h"

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

// The value of a header that occurs once, else nothing.
std::string_view header(const grpc::ServerContextBase& call, const char* name) {
  const auto [begin, end] = call.client_metadata().equal_range(name);
  if (begin == end || std::next(begin) != end) return {};
  return {begin->second.data(), begin->second.size()};
}

}  // namespace

RpcRecord::RpcRecord(ServerContext& context, std::string rpc)
    : context_(context), rpc_(std::move(rpc)), arrival_(steady_now()) {
  context_.requests.enter();
  context_.metrics.rpc_in_flight.Increment();
}

RpcRecord::~RpcRecord() {
  context_.metrics.rpc_in_flight.Decrement();
  context_.requests.leave();
}

absl::Status RpcRecord::admit(const grpc::ServerContextBase& call) {
  caller_ = peer_without_port(call.peer());
  identity_ = logging::identify_request(header(call, logging::kRequestIdHeader),
                                        header(call, logging::kTraceparentHeader));
  auto admitted = server::admit(context_, call, rpc_);
  if (!admitted.ok()) return admitted.status();
  if (!admitted->token_name.empty()) caller_ = std::move(admitted->token_name);
  in_flight_ = std::move(admitted->in_flight);
  return absl::OkStatus();
}

void RpcRecord::add_trailing_metadata(const Refusal& refusal, grpc::ServerContextBase& call) const {
  call.AddTrailingMetadata(logging::kRequestIdHeader, identity_.request_id);
  if (context_.load_reports) call.AddTrailingMetadata(kLoadReportHeader, load_report(context_));
  if (refusal.retry_after > absl::ZeroDuration()) {
    call.AddTrailingMetadata("grpc-retry-pushback-ms",
                             absl::StrCat(absl::ToInt64Milliseconds(refusal.retry_after)));
  }
}

grpc::Status RpcRecord::finish(const absl::Status& status, grpc::ServerContextBase* call) {
  in_flight_.reset();
  const absl::Status end = told(status, context_);
  const Refusal refusal = complete_refusal(end);
  const grpc::Status result = to_grpc(end);
  if (call != nullptr) add_trailing_metadata(refusal, *call);
  const double seconds = absl::ToDoubleSeconds(steady_now() - arrival_);
  context_.metrics.finish_rpc(rpc_, end.code(), seconds);
  if (is_refusal(end)) context_.metrics.count_refusal(refusal.reason);
  log(result, seconds);
  return result;
}

void RpcRecord::log(const grpc::Status& status, double seconds) const {
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  logging::Fields fields = {{"rpc", rpc_},
                            {"code", absl::StatusCodeToString(code)},
                            {"seconds", seconds},
                            {"request_id", identity_.request_id},
                            {"traceparent", identity_.traceparent},
                            {"client", caller_}};
  const auto add_count = [&](const char* name, int64_t count) {
    if (count > 0) fields.push_back({name, count});
  };
  add_count("prompt_tokens", tokens_.prompt);
  add_count("generated_tokens", tokens_.generated);
  add_count("scored_tokens", tokens_.scored);
  if (!status.ok()) fields.push_back({"error", status.error_message()});
  const bool is_ours = status.error_code() == grpc::StatusCode::INTERNAL;
  logging::write(is_ours ? spdlog::level::err : spdlog::level::info, "request", fields);
}

}  // namespace kascade::server
