#include "server/configuration_text.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <iterator>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "server/log/log_format.h"

namespace kascade::server {
namespace {

using core::ConfiguredOption;
using logging::Fields;

// As YAML: plain where that is surely the same text, else as JSON, which YAML includes.
std::string yaml_value(const std::string& value) {
  const bool plain =
      !value.empty() && value.front() != '-' && std::ranges::all_of(value, [](unsigned char c) {
        return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '/' || c == '-';
      });
  if (plain) return value;
  return nlohmann::json(value).dump(-1, ' ', /*ensure_ascii=*/false,
                                    nlohmann::json::error_handler_t::replace);
}

const char* tls_state(const security::TlsFiles& files) {
  if (!files.enabled()) return "off";
  return files.client_authorities.empty() ? "on" : "mutual";
}

std::string or_none(const std::filesystem::path& path, const char* none = "none") {
  return path.empty() ? none : path.string();
}

Fields model_fields(const EngineInfo& info, const EngineOptions& options) {
  return {{"model", options.model_directory.string()},
          {"backend", info.backend},
          {"weights", std::string(name_of(info.weights))},
          {"weight_bytes", info.packed_bytes},
          {"bits_per_weight", info.bits_per_weight},
          {"cache", std::string(name_of(info.cache))},
          {"threads", int64_t{info.threads}},
          {"pinned_cpus", info.cpus.empty() ? "none" : absl::StrJoin(info.cpus, ",")},
          {"kv_memory", info.kv_pool_bytes},
          {"int4_keys", options.int4_keys ? "on" : "off"},
          {"max_batch_tokens", int64_t{options.max_batch_tokens}},
          {"max_step_ms", int64_t{options.max_step_ms}},
          {"max_sequences", int64_t{options.max_sequences}},
          {"batch_share", int64_t{options.batch_share}},
          {"background_share", int64_t{options.background_share}},
          {"weights_cache", info.weights_cache.empty() ? "none" : info.weights_cache},
          {"load_seconds", absl::ToDoubleSeconds(info.load_time)}};
}

Fields listener_fields(const ServerOptions& options, Server& server) {
  const net::ConnectionLimits& limits = server.connection_limits();
  const ConnectionOptions& connections = options.connections;
  return {{"listen", options.listen},
          {"port", int64_t{server.port()}},
          {"metrics_listen", or_none(options.metrics_listen)},
          {"metrics_port", int64_t{server.metrics_port()}},
          {"tls", tls_state(options.security.tls)},
          {"tokens", or_none(options.security.tokens)},
          {"allow_plaintext", options.security.allow_plaintext ? "true" : "false"},
          {"max_connections", int64_t{limits.connections}},
          {"max_connections_per_peer", int64_t{limits.per_host}},
          {"max_streams_per_connection", int64_t{connections.max_streams}},
          {"max_connection_idle_seconds", int64_t{connections.max_idle_seconds}},
          {"max_connection_age_seconds", int64_t{connections.max_age_seconds}},
          {"stall_seconds", int64_t{options.stall_seconds}},
          {"max_message_bytes", options.max_message_bytes},
          {"request_memory", options.request_memory_bytes},
          {"stalled_client_seconds", int64_t{options.stalled_client_seconds}}};
}

Fields other_fields(const Configuration& configuration, const QueueLimits& queue) {
  const ServerOptions& options = configuration.server;
  return {{"max_queue", int64_t{queue.max_queue}},
          {"max_queued_tokens", queue.max_queued_tokens},
          {"max_wait_seconds", queue.max_wait_seconds},
          {"drain_delay_seconds", configuration.drain_delay_seconds},
          {"drain_seconds", configuration.drain_seconds},
          {"shadow_rate", options.shadow_rate},
          {"load_reports", options.load_reports ? "on" : "off"},
          {"log_level", configuration.log_level},
          {"log_format", configuration.log_format},
          {"schedule_file", or_none(options.schedule_file)},
          {"schedule_dir", or_none(options.schedule_directory, "none (in memory only)")}};
}

void append(Fields from, Fields& to) { std::ranges::move(from, std::back_inserter(to)); }

}  // namespace

std::string yaml_text(const std::vector<ConfiguredOption>& options) {
  std::string out;
  for (const ConfiguredOption& option : options) {
    const bool is_unset = option.value.empty() && option.source == "default";
    const std::string value = is_unset ? "not set" : yaml_value(option.value);
    absl::StrAppend(&out, is_unset ? "# " : "", option.name, ": ", value,
                    is_unset ? "" : absl::StrCat("  # ", logging::escaped(option.source)), "\n");
  }
  return out;
}

std::string json_text(const std::vector<ConfiguredOption>& options) {
  nlohmann::ordered_json out = {{"options", nlohmann::json::array()}};
  for (const ConfiguredOption& option : options) {
    out["options"].push_back({{"name", option.name},
                              {"value", option.value},
                              {"source", option.source},
                              {"reloadable", option.reloadable}});
  }
  return out.dump(2, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace) + "\n";
}

Fields option_fields(const std::vector<ConfiguredOption>& options) {
  Fields out;
  for (const ConfiguredOption& option : options) {
    const bool is_default = option.source == "default";
    out.push_back({option.name, is_default ? option.value
                                           : absl::StrCat(option.value, " (", option.source, ")")});
  }
  return out;
}

Fields serving_fields(const Configuration& configuration, Server& server) {
  Fields out = model_fields(server.engine().info(), configuration.server.engine);
  append(listener_fields(configuration.server, server), out);
  append(other_fields(configuration, server.engine().queue_limits()), out);
  return out;
}

}  // namespace kascade::server
