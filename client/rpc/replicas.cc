#include "client/rpc/replicas.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netdb.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "client/rpc/failure.h"
#include "kascade/v1/inference_service.grpc.pb.h"

namespace kascade::client {
namespace {

// Calls go to the servers in turns. What a server refuses for now, or has not answered yet when it
// is lost, gRPC sends again.
constexpr char kServiceConfig[] = R"({
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [{"service": "kascade.v1.InferenceService"}],
    "retryPolicy": {
      "maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "5s", "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    }
  }]
})";
// Of a call, which gRPC can send again as long as it has kept all of it.
constexpr int kRetryBufferBytes = 1 << 20;
// A host that vanishes says nothing; servers accept a ping every 10 seconds.
constexpr int kPingMilliseconds = 20'000;
constexpr int kPongMilliseconds = 10'000;

std::string numeric(const addrinfo& entry) {
  char host[INET6_ADDRSTRLEN] = {};
  char port[8] = {};
  const int flags = NI_NUMERICHOST | NI_NUMERICSERV;
  if (getnameinfo(entry.ai_addr, entry.ai_addrlen, host, sizeof(host), port, sizeof(port), flags) !=
      0) {
    return "";
  }
  const std::string shown = entry.ai_family == AF_INET6 ? fmt::format("[{}]", host) : host;
  return fmt::format("{}:{}", shown, port);
}

// TLS checks the name in a certificate, which is not in an address.
absl::StatusOr<grpc::ChannelArguments> arguments_for(const Globals& globals,
                                                     const std::vector<ServerName>& names) {
  grpc::ChannelArguments arguments;
  if (!globals.credentials.uses_tls()) return arguments;
  for (const ServerName& name : names) {
    if (name.host == names.front().host) continue;
    return absl::InvalidArgumentError(
        fmt::format("--servers: with TLS all must have one host name, which is the certificate's, "
                    "found {} and {}",
                    names.front().host, name.host));
  }
  arguments.SetSslTargetNameOverride(names.front().host);
  return arguments;
}

struct Reached {
  std::vector<std::string> targets{};
  v1::GetModelInfoResponse first{};
};

// Asks each server what it runs.
absl::StatusOr<Reached> ask_all(Globals globals, const std::vector<std::string>& targets,
                                const grpc::ChannelArguments& arguments) {
  Reached out;
  for (const std::string& target : targets) {
    globals.server = target;
    const auto channel = connect(globals, arguments);
    if (!channel.ok()) {
      if (target == targets.back() && out.targets.empty()) return channel.status();
      fmt::print(stderr, "kascade: warning: without {}: {}\n", target,
                 std::string(channel.status().message()));
      continue;
    }
    const auto stub = v1::InferenceService::NewStub(*channel);
    const auto info =
        call(globals, *stub, &v1::InferenceService::Stub::GetModelInfo, v1::GetModelInfoRequest());
    if (!info.ok()) return info.status();
    if (out.targets.empty()) out.first = *info;
    const absl::Status same =
        check_same(out.targets.empty() ? target : out.targets.front(), out.first, target, *info);
    if (!same.ok()) return same;
    out.targets.push_back(target);
  }
  return out;
}

}  // namespace

absl::StatusOr<ServerName> find_server(const std::string& host_and_port) {
  const size_t colon = host_and_port.rfind(':');
  std::string host = host_and_port.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (colon == std::string::npos || host.empty() || colon + 1 == host_and_port.size()) {
    return absl::InvalidArgumentError(
        fmt::format("--servers: expected HOST:PORT, found \"{}\"", host_and_port));
  }
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), host_and_port.c_str() + colon + 1, &hints, &found);
  if (error != 0) {
    return absl::NotFoundError(
        fmt::format("--servers: {}: {}", host_and_port, gai_strerror(error)));
  }
  ServerName name{.host = host};
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    (entry->ai_family == AF_INET6 ? name.ipv6 : name.ipv4).push_back(numeric(*entry));
  }
  freeaddrinfo(found);
  return name;
}

absl::StatusOr<std::vector<std::string>> common_targets(const std::vector<ServerName>& servers) {
  for (const auto& [scheme, addresses] :
       {std::pair{"ipv4:", &ServerName::ipv4}, std::pair{"ipv6:", &ServerName::ipv6}}) {
    const auto has_none = [addresses = addresses](const ServerName& server) {
      return (server.*addresses).empty();
    };
    if (std::ranges::any_of(servers, has_none)) continue;
    std::vector<std::string> targets;
    for (const ServerName& server : servers) {
      for (const std::string& address : server.*addresses) {
        const std::string target = scheme + address;
        if (std::ranges::find(targets, target) == targets.end()) targets.push_back(target);
      }
    }
    return targets;
  }
  return absl::InvalidArgumentError(
      "--servers: some have only IPv4 addresses and others only IPv6 ones");
}

absl::Status check_same(const std::string& first_name, const v1::GetModelInfoResponse& first,
                        const std::string& name, const v1::GetModelInfoResponse& info) {
  const std::tuple<const char*, const std::string&, const std::string&> figures[] = {
      {"weights", first.model().weights_digest(), info.model().weights_digest()},
      {"configuration", first.model().config_digest(), info.model().config_digest()},
      {"tokenizer", first.model().tokenizer_digest(), info.model().tokenizer_digest()},
      {"format of weights", first.runtime().weights_dtype(), info.runtime().weights_dtype()},
      {"format of keys and values", first.runtime().cache_dtype(), info.runtime().cache_dtype()},
      {"active schedule", first.active_schedule_id(), info.active_schedule_id()},
  };
  for (const auto& [what, expected, found] : figures) {
    if (expected == found) continue;
    const auto shown = [](const std::string& value) { return value.empty() ? "none" : value; };
    return absl::FailedPreconditionError(
        fmt::format("--servers: the {} of {} and {} differ: {} and {}", what, first_name, name,
                    shown(expected), shown(found)));
  }
  return absl::OkStatus();
}

absl::StatusOr<Replicas> connect_replicas(const Globals& globals,
                                          const std::vector<std::string>& servers) {
  std::vector<ServerName> names;
  for (const std::string& server : servers) {
    auto name = find_server(server);
    if (!name.ok()) return name.status();
    names.push_back(*std::move(name));
  }
  const auto targets = common_targets(names);
  if (!targets.ok()) return targets.status();
  auto arguments = arguments_for(globals, names);
  if (!arguments.ok()) return arguments.status();
  const auto reached = ask_all(globals, *targets, *arguments);
  if (!reached.ok()) return reached.status();

  Replicas out{.servers = reached->targets.size(), .globals = globals};
  const std::string scheme = reached->targets.front().substr(0, 5);
  std::vector<std::string> addresses;
  for (const std::string& target : reached->targets) addresses.push_back(target.substr(5));
  out.globals.server = fmt::format("{}{}", scheme, fmt::join(addresses, ","));
  arguments->SetServiceConfigJSON(kServiceConfig);
  arguments->SetInt(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, kRetryBufferBytes);
  arguments->SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kPingMilliseconds);
  arguments->SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPongMilliseconds);
  auto channel = connect(out.globals, *arguments);
  if (!channel.ok()) return channel.status();
  out.channel = *std::move(channel);
  return out;
}

}  // namespace kascade::client
