// The flags of commands that may start a server of their own.
#ifndef KASCADE_CLIENT_COMMANDS_SERVER_FLAGS_H_
#define KASCADE_CLIENT_COMMANDS_SERVER_FLAGS_H_

#include <CLI/App.hpp>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "client/benchmark/local_server.h"
#include "client/rpc/call.h"
#include "client/rpc/session.h"

namespace kascade::client {

struct ServerFlags {
  std::string model{}, program{};
  std::string backend{}, weights{}, kv_cache_dtype{};
  std::optional<int32_t> threads{};
};

void add_server_flags(CLI::App& command, ServerFlags& flags);

// The server of a command: the one that runs, or one that lives as long as this object.
struct ServerForCommand {
  Globals globals{};                      // with the address; the session refers to it
  std::unique_ptr<LocalServer> server{};  // null: one that was running already
  std::unique_ptr<Session> session{};
};

// Connects to the running server, or starts one for the model that `flags` name.
absl::StatusOr<std::unique_ptr<ServerForCommand>> connect_or_start(const Globals& globals,
                                                                   const ServerFlags& flags);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_SERVER_FLAGS_H_
