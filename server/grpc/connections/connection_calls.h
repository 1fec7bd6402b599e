// Tells the accept loop which connections have calls.
#ifndef KASCADE_SERVER_GRPC_CONNECTIONS_CONNECTION_CALLS_H_
#define KASCADE_SERVER_GRPC_CONNECTIONS_CONNECTION_CALLS_H_

#include <memory>

#include "grpcpp/support/server_interceptor.h"
#include "server/net/connections.h"

namespace kascade::server {

// Counts each call from its arrival to its end, of our services and of all others, known or not.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> count_calls(
    std::shared_ptr<net::Connections> connections);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_CONNECTIONS_CONNECTION_CALLS_H_
