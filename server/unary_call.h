// Runs the body of a unary call, accounts for it and finishes it.
#ifndef KASCADE_SERVER_UNARY_CALL_H_
#define KASCADE_SERVER_UNARY_CALL_H_

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "grpcpp/support/server_callback.h"
#include "server/host.h"

namespace kascade::server {

// `body` gives the call's status. Large requests (`bytes`) run on the work queue.
template <typename Body>
grpc::ServerUnaryReactor* run_unary(ServerContext& host, const char* rpc,
                                    grpc::CallbackServerContext* context, size_t bytes, Body body) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  auto record = std::make_shared<RpcRecord>(host, rpc);
  const bool accepted = host.work.run(bytes, [reactor, record, body = std::move(body)] {
    reactor->Finish(record->finish(body()));
  });
  if (!accepted) {
    reactor->Finish(record->finish(
        absl::ResourceExhaustedError("too many large requests at once; try again later")));
  }
  return reactor;
}

}  // namespace kascade::server

#endif  // KASCADE_SERVER_UNARY_CALL_H_
