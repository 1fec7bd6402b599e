// gRPC's own counts of what happens on each connection, by channelz.
#ifndef KASCADE_SERVER_GRPC_CONNECTIONS_SOCKET_COUNTS_H_
#define KASCADE_SERVER_GRPC_CONNECTIONS_SOCKET_COUNTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>

#include "server/grpc/connections/stream_budget.h"

namespace kascade::server {

// Not thread-safe.
class SocketCounter {
 public:
  struct Counted {
    int64_t socket = 0;     // gRPC's number of the connection, never used again
    SocketCounts counts{};  // without `bytes` and `allocated`
  };

  // The counts of the connection with this net::Peer::name; nothing if gRPC has none, as before its
  // first byte and after its end.
  std::optional<Counted> count(const std::string& name);

 private:
  // Looks up the numbers of connections that have come since the last time.
  void find_sockets();

  int64_t next_socket_ = 0;
  std::unordered_map<std::string, int64_t> sockets_;  // by name; also of some that have ended
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_CONNECTIONS_SOCKET_COUNTS_H_
