#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "client/commands/commands.h"
#include "client/rpc/failure.h"
#include "client/views/reports.h"
#include "kascade/v1/server_service.grpc.pb.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

Json config_json(const v1::GetConfigurationResponse& configuration) {
  Json options = Json::array();
  for (const auto& option : configuration.options()) {
    options.push_back({{"name", option.name()},
                       {"value", option.value()},
                       {"source", option.source()},
                       {"reloadable", option.reloadable()}});
  }
  return {{"options", std::move(options)}};
}

std::string config_text(const v1::GetConfigurationResponse& configuration) {
  using Align = Table::Align;
  Table table({{.title = "Option", .align = Align::kLeft},
               {.title = "Value", .align = Align::kLeft},
               {.title = "Source", .align = Align::kLeft},
               {.title = "At SIGHUP", .align = Align::kLeft}});
  for (const auto& option : configuration.options()) {
    table.add({option.name(), option.value().empty() ? "(empty)" : option.value(), option.source(),
               option.reloadable() ? "taken over" : "needs a restart"});
  }
  return table.text();
}

int run_config(const Globals& globals) {
  const auto configuration = connect_and_call<v1::ServerService>(
      globals, &v1::ServerService::Stub::GetConfiguration, v1::GetConfigurationRequest());
  if (!configuration.ok()) return fail(configuration.status());
  if (globals.json) {
    print_json(config_json(*configuration));
  } else {
    fmt::print("{}", config_text(*configuration));
  }
  return kSuccess;
}

}  // namespace

void add_config(CLI::App& app, const Globals& globals, Action& chosen) {
  app.add_subcommand("config", "The server's options, and where each value comes from")
      ->callback([&] { chosen = [&globals] { return run_config(globals); }; });
}

}  // namespace kascade::client
