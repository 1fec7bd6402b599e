// Refuses requests that cannot be parsed. gRPC ends such a call with UNIMPLEMENTED and no message,
// before any method of a service is called; an interceptor is the one place that sees all RPCs.
#ifndef KASCADE_SERVER_GRPC_MALFORMED_REQUESTS_H_
#define KASCADE_SERVER_GRPC_MALFORMED_REQUESTS_H_

#include <memory>
#include <vector>

#include "grpcpp/support/server_interceptor.h"
#include "server/grpc/rpc_record.h"

namespace kascade::server {

// Beside the reasons of engine/base/refusal.h: the engine and the core never see such a request.
inline constexpr char kMalformedRequest[] = "MALFORMED_REQUEST";

// Makes calls of our services whose request is no message of its type end with INVALID_ARGUMENT,
// counted and logged as other calls are; but not those that receive a stream. A call that its
// client cancelled before the request came counts as CANCELLED. `context` must outlive the server.
std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
refuse_malformed_requests(ServerContext& context);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_MALFORMED_REQUESTS_H_
