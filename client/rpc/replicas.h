// Several servers with the same model, as one channel: gRPC spreads the calls over them in turns,
// and leaves out those that it cannot reach.
#ifndef KASCADE_CLIENT_RPC_REPLICAS_H_
#define KASCADE_CLIENT_RPC_REPLICAS_H_

#include <grpcpp/channel.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/rpc/call.h"
#include "kascade/v1/inference_service.pb.h"

namespace kascade::client {

// A name and what it stands for, as gRPC writes addresses: "10.0.0.1:50051", "[::1]:50051".
struct ServerName {
  std::string host{};
  std::vector<std::string> ipv4{}, ipv6{};
};

// Looks up HOST:PORT. INVALID_ARGUMENT: it has another form; NOT_FOUND: the host has no address.
absl::StatusOr<ServerName> find_server(const std::string& host_and_port);

// The addresses of all servers, each once, in one family, as the target of a channel has to name
// them: "ipv4:10.0.0.1:50051" for each. INVALID_ARGUMENT: no family has addresses of all.
absl::StatusOr<std::vector<std::string>> common_targets(const std::vector<ServerName>& servers);

// FAILED_PRECONDITION, naming both servers and the first difference: weights, configuration,
// tokenizer, formats, or the active schedule.
absl::Status check_same(const std::string& first_name, const v1::GetModelInfoResponse& first,
                        const std::string& name, const v1::GetModelInfoResponse& info);

struct Replicas {
  std::shared_ptr<grpc::Channel> channel{};
  size_t servers = 0;  // that were reached
  Globals globals{};   // for calls on the channel
};

// Servers that cannot be reached are left out with a warning, unless that is all of them.
absl::StatusOr<Replicas> connect_replicas(const Globals& globals,
                                          const std::vector<std::string>& servers);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_RPC_REPLICAS_H_
