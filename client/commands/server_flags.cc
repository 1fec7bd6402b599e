#include "client/commands/server_flags.h"

#include <CLI/CLI.hpp>
#include <utility>

namespace kascade::client {

void add_server_flags(CLI::App& command, ServerFlags& flags) {
  CLI::Option* model =
      command
          .add_option("--model", flags.model,
                      "Start a server for this checkpoint folder and end it at the end [use the "
                      "running server, see --server]")
          ->type_name("DIR");
  command
      .add_option("--server-program", flags.program,
                  "kascade-server to start [the one beside this program, or on PATH]")
      ->type_name("FILE")
      ->needs(model);
  command.add_option("--backend", flags.backend, "With --model: backend of that server [auto]")
      ->needs(model);
  command.add_option("--weights", flags.weights, "With --model: weight format [auto]")
      ->needs(model);
  command
      .add_option("--kv-cache-dtype", flags.kv_cache_dtype,
                  "With --model: format of keys and values [auto]")
      ->needs(model);
  command.add_option("--threads", flags.threads, "With --model: compute threads [one per core]")
      ->needs(model);
}

absl::StatusOr<std::unique_ptr<ServerForCommand>> connect_or_start(const Globals& globals,
                                                                   const ServerFlags& flags) {
  auto out = std::make_unique<ServerForCommand>();
  out->globals = globals;
  if (!flags.model.empty()) {
    LocalServerOptions options{.program = flags.program, .model = flags.model};
    const auto pass = [&](const char* name, const std::string& value) {
      if (value.empty()) return;
      options.arguments.insert(options.arguments.end(), {name, value});
    };
    pass("--backend", flags.backend);
    pass("--weights", flags.weights);
    pass("--kv-cache-dtype", flags.kv_cache_dtype);
    if (flags.threads) pass("--threads", std::to_string(*flags.threads));
    auto server = LocalServer::start(options);
    if (!server.ok()) return server.status();
    out->server = *std::move(server);
    out->globals.server = out->server->address();
    out->globals.credentials = {};  // they are for another server
  }
  auto session = Session::open(out->globals);
  if (!session.ok()) return session.status();
  out->session = *std::move(session);
  return out;
}

}  // namespace kascade::client
