// Runs the body of a unary call, accounts for it and finishes it.
#ifndef KASCADE_SERVER_GRPC_UNARY_CALL_H_
#define KASCADE_SERVER_GRPC_UNARY_CALL_H_

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "grpcpp/support/server_callback.h"
#include "server/grpc/rpc_record.h"

namespace kascade::server {

// `body` returns the call's status. Large requests (`bytes`) run on the work queue.
template <typename Body>
grpc::ServerUnaryReactor* run_unary(ServerContext& context, const char* rpc,
                                    grpc::CallbackServerContext* call, size_t bytes, Body body) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  auto record = std::make_shared<RpcRecord>(context, rpc);
  absl::Status status = record->admit(*call);
  if (status.ok()) {
    status = context.work.run(bytes, [reactor, record, body = std::move(body)] {
      reactor->Finish(record->finish(body()));
    });
  }
  if (!status.ok()) reactor->Finish(record->finish(status));
  return reactor;
}

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_UNARY_CALL_H_
