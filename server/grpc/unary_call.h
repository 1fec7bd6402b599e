// Runs the body of a unary call, accounts for it and finishes it.
#ifndef KASCADE_SERVER_GRPC_UNARY_CALL_H_
#define KASCADE_SERVER_GRPC_UNARY_CALL_H_

#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/base/clock.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "server/core/request_guard.h"
#include "server/grpc/rpc_record.h"
#include "server/grpc/stream_call.h"

namespace kascade::server {

// Lives until gRPC is done with it, and so does the memory that its guard holds: the reply is in
// it.
class UnaryCall final : public grpc::ServerUnaryReactor, public core::MonitoredCall {
 public:
  UnaryCall(ServerContext& context, std::string rpc, grpc::CallbackServerContext& call)
      : context_(context), rpc_(call), record_(context, std::move(rpc)), guard_(context.memory) {
    guard_.set_deadline(deadline_of(call));
    context_.readers.enter(*this);
  }

  // Lets the call in, or says why not; to be called first.
  absl::Status admit() { return record_.admit(rpc_); }
  core::RequestGuard& guard() { return guard_; }
  void finish(const absl::Status& status) {
    {
      const std::lock_guard lock(mutex_);
      reply_began_ = steady_now();
    }
    Finish(record_.finish(status, &rpc_));
  }

 private:
  void OnCancel() override { guard_.cancel(); }
  void OnDone() override {
    context_.readers.leave(*this);
    delete this;
  }
  // Until leave() has returned, gRPC's context exists.
  void end_if_stalled(absl::Time earliest) override {
    {
      const std::lock_guard lock(mutex_);
      if (!reply_began_ || *reply_began_ > earliest) return;
    }
    rpc_.TryCancel();
  }

  ServerContext& context_;
  grpc::CallbackServerContext& rpc_;
  RpcRecord record_;
  core::RequestGuard guard_;
  std::mutex mutex_;  // guards what follows
  std::optional<absl::Time> reply_began_;
};

// `body` takes the call's guard, which holds the request, and returns the call's status. Large
// requests, and calls that wait for a disk, run on the work queue.
template <typename Request, typename Body>
grpc::ServerUnaryReactor* run_unary(ServerContext& context, const char* rpc,
                                    grpc::CallbackServerContext* call, const Request& request,
                                    Body body, Waits waits = Waits::kNever) {
  auto* unary = new UnaryCall(context, rpc, *call);  // OnDone() deletes it
  const auto bytes = static_cast<int64_t>(request.SpaceUsedLong());
  absl::Status status = unary->admit();
  if (status.ok()) status = unary->guard().hold_more(bytes);
  if (!status.ok()) {
    unary->finish(status);
    return unary;
  }
  run_work(context, waits, request.ByteSizeLong(), [unary, body = std::move(body)] {
    unary->finish(core::unless_out_of_memory([&] { return body(unary->guard()); }));
  });
  return unary;
}

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_UNARY_CALL_H_
