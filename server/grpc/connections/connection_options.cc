#include "server/grpc/connections/connection_options.h"

#include <algorithm>
#include <limits>

#include "server/net/descriptors.h"

namespace kascade::server {
namespace {

constexpr int kMaxMetadataBytes = 16 << 10;     // of one call
constexpr int kMaxFrameBytes = 16 << 10;        // what HTTP/2 prescribes at least
constexpr int kHandshakeMilliseconds = 20'000;  // for the first frame of a new connection
// gRPC counts streams as open for a while after the client has ended them. A client that keeps to
// the limit of streams stays far below this multiple of it.
constexpr int64_t kCountedPerStream = 4;

int milliseconds(int32_t seconds) {
  return static_cast<int>(
      std::min<int64_t>(int64_t{seconds} * 1000, std::numeric_limits<int>::max()));
}

}  // namespace

absl::StatusOr<net::ConnectionLimits> connection_limits(const ConnectionOptions& options,
                                                        int64_t descriptors) {
  const auto connections = net::connection_limit(options.max_connections, descriptors);
  if (!connections.ok()) return connections.status();
  const int32_t half = std::max(1, *connections / 2);
  return net::ConnectionLimits{.connections = *connections,
                               .per_host = options.max_per_peer < 0 ? half : options.max_per_peer};
}

StreamLimits stream_limits(const ConnectionOptions& options, int64_t max_message_bytes) {
  return {.streams = kCountedPerStream * options.max_streams, .message_bytes = max_message_bytes};
}

void limit_connections(grpc::ServerBuilder& builder, const ConnectionOptions& options) {
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kMaxFrameBytes);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMilliseconds);
  if (options.max_idle_seconds > 0) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                               milliseconds(options.max_idle_seconds));
  }
  if (options.max_age_seconds > 0) {
    const int age = milliseconds(options.max_age_seconds);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, age);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, age);
  }
}

}  // namespace kascade::server
