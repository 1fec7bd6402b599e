// What gRPC clients may do with their connections.
#ifndef KASCADE_SERVER_GRPC_CONNECTIONS_CONNECTION_OPTIONS_H_
#define KASCADE_SERVER_GRPC_CONNECTIONS_CONNECTION_OPTIONS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "grpcpp/server_builder.h"
#include "server/grpc/connections/stream_budget.h"
#include "server/net/connections.h"

namespace kascade::server {

struct ConnectionOptions {
  // At once; 0 = as many as the limit of descriptors allows, at most 4,096.
  int32_t max_connections = 0;
  // Of these, of one IPv4 address or one /64 network of IPv6; 0 = no limit, −1 = half of all.
  int32_t max_per_peer = -1;
  int32_t max_streams = 256;        // calls at once on a connection; more wait in the client
  int32_t max_idle_seconds = 3600;  // without a call, then the connection is closed; 0 = no limit
  // From then on a connection takes no new calls, and those that run have as long again; 0 = no
  // limit.
  int32_t max_age_seconds = 0;
};

// The limits that the accept loop keeps. RESOURCE_EXHAUSTED: the process may not open as many
// descriptors as max_connections needs.
absl::StatusOr<net::ConnectionLimits> connection_limits(const ConnectionOptions& options,
                                                        int64_t descriptors);

// The limits that the flood guard keeps, with messages of so many bytes.
StreamLimits stream_limits(const ConnectionOptions& options, int64_t max_message_bytes);

// Sets the limits that gRPC keeps.
void limit_connections(grpc::ServerBuilder& builder, const ConnectionOptions& options);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_CONNECTIONS_CONNECTION_OPTIONS_H_
