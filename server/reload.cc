#include "server/reload.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/check.h"
#include "server/log/log_format.h"
#include "server/log/record.h"
#include "spdlog/spdlog.h"

namespace kascade::server {
namespace {

using core::ConfiguredOption;

std::string names_or_none(const std::vector<std::string>& names) {
  return names.empty() ? "none" : absl::StrJoin(names, ", ");
}

}  // namespace

ConfigurationChange change_between(const std::vector<ConfiguredOption>& running,
                                   const std::vector<ConfiguredOption>& read) {
  KASCADE_CHECK(running.size() == read.size());
  ConfigurationChange out{.in_force = running};
  for (size_t i = 0; i < running.size(); ++i) {
    const bool differs = running[i].value != read[i].value;
    if (differs && !read[i].reloadable) {
      out.need_restart.push_back(read[i].name);
      continue;
    }
    if (differs) {
      out.taken.push_back(
          absl::StrCat(read[i].name, " from ", running[i].value, " to ", read[i].value));
    }
    out.in_force[i] = read[i];
  }
  return out;
}

void Reloader::reload(Server& server) {
  server.read_security_files_again();
  auto read = configure(arguments_);
  if (!read.ok()) {
    spdlog::error("SIGHUP: the configuration stays as it is: {}",
                  std::string(read.status().message()));
    return;
  }
  const ConfigurationChange change =
      change_between(running_.server.configured_options, read->server.configured_options);
  take_over(*read, server);
  running_.server.configured_options = change.in_force;
  server.set_configured_options(change.in_force);
  logging::write(change.need_restart.empty() ? spdlog::level::info : spdlog::level::warn,
                 "SIGHUP: the configuration was read again",
                 {{"changed", names_or_none(change.taken)},
                  {"need_restart", names_or_none(change.need_restart)}});
}

// The reloadable options of server/configure.cc.
void Reloader::take_over(const Configuration& read, Server& server) {
  running_.drain_delay_seconds = read.drain_delay_seconds;
  running_.drain_seconds = read.drain_seconds;
  running_.log_level = read.log_level;
  running_.log_format = read.log_format;
  set_log(running_);
  EngineOptions& engine = running_.server.engine;
  engine.max_queue = read.server.engine.max_queue;
  engine.max_queued_tokens = read.server.engine.max_queued_tokens;
  engine.max_wait_seconds = read.server.engine.max_wait_seconds;
  const absl::Status limits =
      server.engine().set_queue_limits({.max_queue = engine.max_queue,
                                        .max_queued_tokens = engine.max_queued_tokens,
                                        .max_wait_seconds = engine.max_wait_seconds});
  KASCADE_CHECK(limits.ok());  // the options have the same ranges
  running_.server.shadow_rate = read.server.shadow_rate;
  server.set_shadow_rate(read.server.shadow_rate);
}

void set_log(const Configuration& configuration) {
  spdlog::default_logger()->set_formatter(logging::formatter_named(configuration.log_format));
  spdlog::default_logger()->set_level(spdlog::level::from_str(configuration.log_level));
}

}  // namespace kascade::server
