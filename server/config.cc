#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/net/address.h"
#include "server/option_parser.h"
#include "tools/options/number_option.h"
#include "tools/version/version.h"

namespace kascade::server {
namespace {

using options::add_bytes;
using options::add_number;
using options::add_whole;

// A step has room for one row of each sequence, and for so many rows of prompts.
constexpr int32_t kRowsBesideSequences = 256;

// "on" or "off"; unlike a flag, it is on by default.
void add_switch(CLI::App& app, const std::string& name, bool& value,
                const std::string& description) {
  app.add_option_function<std::string>(
         name, [&value](const std::string& text) { value = text == "on"; }, description)
      ->check(CLI::IsMember({"on", "off"}))
      ->default_str(value ? "on" : "off");
}

void add_model_flags(CLI::App& app, EngineOptions& engine) {
  app.add_option("--model", engine.model_directory, "Llama checkpoint folder, Hugging Face layout")
      ->required()
      ->type_name("DIR");
  app.add_option("--backend", engine.backend, "auto takes the fastest one of this machine")
      ->check(CLI::IsMember({"auto", "reference", "cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--weights", engine.weights,
                 "Computed with; auto keeps the checkpoint's where the backend can; int8 and int4 "
                 "round them to save memory and time; native keeps each matrix as the checkpoint "
                 "has it")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "int8", "int4", "native"}))
      ->capture_default_str();
  app.add_option("--kv-cache-dtype", engine.kv_cache_dtype,
                 "Keys and values; auto is f32 beside f32 weights, else bf16; int8 holds nearly "
                 "twice the tokens of bf16")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "int8"}))
      ->capture_default_str();
  add_switch(app, "--int4-keys", engine.int4_keys,
             "Keeps a 4-bit copy of the keys, by which schedules can select; it takes memory of "
             "the KV cache");
  app.add_option("--weights-cache", engine.weights_cache,
                 "Keeps packed weights here and maps them at later starts; default: those that the "
                 "model folder brings, else packs at each start")
      ->type_name("DIR");
  add_bytes(app, "--kv-memory", engine.kv_memory_bytes, options::binary_units(), 0, INT64_MAX,
            "Bytes of the KV cache, or a number with KiB, MiB, GiB; 0 = what --max-sequences "
            "full contexts need, at most half of what the weights leave");
}

// The ranges are those of the engine (check_options in engine/engine.cc), which would refuse the
// values too, but in the words of its own fields.
void add_step_flags(CLI::App& app, EngineOptions& engine) {
  add_whole(app, "--threads", engine.threads, 0, 1024, "Compute threads; 0 = one per usable core");
  app.add_flag("--pin-threads", engine.pin_threads,
               "Binds each compute thread to a CPU of its own, in the order of the affinity mask");
  add_whole(app, "--max-batch-tokens", engine.max_batch_tokens, 1 + kRowsBesideSequences, 65536,
            "Tokens computed in one step; at least --max-sequences + 256");
  add_whole(app, "--max-step-ms", engine.max_step_ms, 0, 3'600'000,
            "While sequences decode, prompts are fed in chunks that let a step take about so "
            "long at most; 0 = no limit");
  add_whole(app, "--max-sequences", engine.max_sequences, 1, 4096,
            "Sequences running at once; a comparison counts as two");
}

// What may wait, and how the classes of requests share the engine.
void add_queue_flags(CLI::App& app, EngineOptions& engine) {
  engine.max_wait_seconds = kAutomaticWait;
  add_whole(app, "--max-queue", engine.max_queue, 1, 1 << 20,
            "Requests of one class that wait; more get RESOURCE_EXHAUSTED");
  add_whole(
      app, "--max-queued-tokens", engine.max_queued_tokens, 0, INT64_MAX,
      "Tokens of the waiting requests of one class; more get RESOURCE_EXHAUSTED; 0 = eight times "
      "what the KV cache holds");
  add_number(app, "--max-wait-seconds", engine.max_wait_seconds, kAutomaticWait, 86400,
             "Interactive requests that are predicted to wait longer get RESOURCE_EXHAUSTED; "
             "0 = no limit, -1 = about as long as the request itself takes to its first token");
  add_whole(app, "--batch-share", engine.batch_share, 1, 50,
            "Percent of a step that batch requests get while interactive ones fill every step");
  add_whole(app, "--background-share", engine.background_share, 0, 1000,
            "Percent by which calibration may lengthen a step that has interactive requests");
}

// Checks an address as the server will parse it, so that a wrong one is wrong usage.
CLI::Option* add_address(CLI::App& app, const std::string& name, std::string& value,
                         net::Sockets allowed, bool may_be_empty, const std::string& description) {
  const auto check = [=, &value](const std::string& text) {
    if (!text.empty() || !may_be_empty) {
      const auto address = net::parse_address(text, allowed);
      if (!address.ok()) throw CLI::ValidationError(name, std::string(address.status().message()));
    }
    value = text;
  };
  return app.add_option_function<std::string>(name, check, description)
      ->type_name("HOST:PORT")
      ->default_str(value);
}

void add_server_flags(CLI::App& app, Configuration& configuration) {
  ServerOptions& server = configuration.server;
  add_address(app, "--listen", server.listen, net::Sockets::kTcpAndUnix, false,
              "gRPC address, HOST:PORT or unix:PATH; port 0 = any free one");
  add_address(app, "--metrics-listen", server.metrics_listen, net::Sockets::kTcpOnly, true,
              "Prometheus address, HOST:PORT; empty = none");
  app.add_option("--schedule", server.schedule_file, "Schedule file that is activated at start")
      ->check(CLI::ExistingFile)
      ->type_name("FILE");
  app.add_option("--schedule-dir", server.schedule_directory,
                 "Where schedules and calibrations are kept; default: in memory only")
      ->type_name("DIR");
  add_whole(app, "--max-message-bytes", server.max_message_bytes, int64_t{1} << 16,
            (int64_t{1} << 31) - 1, "Largest request, bytes");
  add_number(app, "--drain-delay-seconds", configuration.drain_delay_seconds, 0, 3600,
             "Time after SIGTERM or SIGINT in which health says that the server is not ready, but "
             "requests are still accepted; longer than proxies take to notice");
  add_number(app, "--drain-seconds", configuration.drain_seconds, 0, 86400,
             "Time for running requests after that; a second signal, or one while "
             "the model is loading, ends at once");
  app.add_option("--log-level", configuration.log_level,
                 "Least level that is logged; requests that ended are info")
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_option("--log-format", configuration.log_format,
                 "text: one line; json: one JSON object a line")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  add_number(
      app, "--shadow-rate", server.shadow_rate, 0, 1,
      "Share of the sparse requests that are compared with dense attention after they ended, "
      "while the server is not busy; kascade_shadow_kl_nats tells the result");
  add_switch(app, "--load-reports", server.load_reports,
             "Tells at the end of each call how busy the server is (ORCA, for load balancers)");
  app.add_option("--port-file", configuration.port_file,
                 "Written once the server serves: the gRPC port and the metrics port, a line each")
      ->type_name("FILE");
}

void add_connection_flags(CLI::App& app, ServerOptions& server) {
  ConnectionOptions& connections = server.connections;
  add_whole(app, "--max-connections", connections.max_connections, 0, 1 << 20,
            "gRPC connections at once; 0 = as many as the limit of descriptors allows, at most "
            "4,096; where there are too many, one without calls is closed");
  add_whole(app, "--max-connections-per-peer", connections.max_per_peer, -1, 1 << 20,
            "Of these, of one IPv4 address or /64 network of IPv6; -1 = half of all, 0 = no limit");
  add_whole(app, "--max-streams-per-connection", connections.max_streams, 1, 1 << 20,
            "Calls at once on a connection; more wait in the client");
  add_whole(app, "--max-connection-idle-seconds", connections.max_idle_seconds, 0, 2'000'000,
            "A connection without a call for so long is closed; 0 = never");
  add_whole(app, "--max-connection-age-seconds", connections.max_age_seconds, 0, 2'000'000,
            "A connection takes no new calls then and is closed after as long again; 0 = never");
  add_whole(app, "--stall-seconds", server.stall_seconds, 0, 86400,
            "The server is no longer live if the engine has work but computes nothing for so long; "
            "0 = it always is");
}

void add_security_flags(CLI::App& app, security::ListenerSecurity& security) {
  CLI::Option* certificate = app.add_option("--tls-cert", security.tls.certificate,
                                            "Certificate of the gRPC listener, then its "
                                            "intermediates (PEM); default: no TLS")
                                 ->type_name("FILE");
  CLI::Option* key = app.add_option("--tls-key", security.tls.key, "Key of that certificate (PEM)")
                         ->type_name("FILE");
  certificate->needs(key);
  key->needs(certificate);
  app.add_option("--tls-client-ca", security.tls.client_authorities,
                 "Clients must show a certificate that one of these authorities signed (PEM)")
      ->type_name("FILE")
      ->needs(certificate);
  app.add_option("--tokens", security.tokens,
                 "Access tokens by name, digest and scopes (JSON); default: none is needed")
      ->type_name("FILE");
  app.add_flag("--allow-plaintext", security.allow_plaintext,
               "Lets --listen name an address that other machines can reach, without TLS");
}

void add_memory_flags(CLI::App& app, ServerOptions& server) {
  add_bytes(app, "--request-memory", server.request_memory_bytes, options::binary_units(),
            int64_t{1} << 20, INT64_MAX,
            "Bytes that all requests may hold together, or a number with KiB, MiB, GiB: messages, "
            "tokens, unread replies; at least four times --max-message-bytes");
  add_whole(app, "--stalled-client-seconds", server.stalled_client_seconds, 1, 86400,
            "A call whose client reads nothing for so long is ended, or sends nothing of a stream");
}

// What no option can check alone.
// The range of the option has room for the one number below 0 that means something.
void check_wait(double seconds) {
  if (seconds >= 0 || seconds == kAutomaticWait) return;
  throw CLI::ValidationError(
      "--max-wait-seconds",
      absl::StrCat("expected -1 or a number from 0 to 86400, found ", seconds));
}

void check_together(const EngineOptions& engine) {
  check_wait(engine.max_wait_seconds);
  const int32_t least = engine.max_sequences + kRowsBesideSequences;
  if (engine.max_batch_tokens >= least) return;
  throw CLI::ValidationError(
      "--max-batch-tokens",
      absl::StrCat("expected at least --max-sequences + ", kRowsBesideSequences, ", ", least,
                   ", found ", engine.max_batch_tokens));
}

// A message exists several times: as received, as parsed, and as what is made of it.
void check_memory(const ServerOptions& server) {
  if (server.request_memory_bytes / 4 >= server.max_message_bytes) return;
  throw CLI::ValidationError(
      "--request-memory",
      absl::StrCat("expected at least four times --max-message-bytes, ",
                   4 * server.max_message_bytes, ", found ", server.request_memory_bytes));
}

}  // namespace

OptionParser::OptionParser() {
  app.set_version_flag("--version", version_line());
  app.add_option("--config",
                 "File with options: YAML if its name ends in .yaml or .yml, else TOML, "
                 "name=value lines")
      ->type_name("FILE");
  app.add_flag("--print-config{yaml}", configuration.print_format,
               "Prints the options in force and where each comes from, and ends: a configuration "
               "file in YAML, or =json")
      ->check(CLI::IsMember({"yaml", "json"}));
  add_model_flags(app, configuration.server.engine);
  add_step_flags(app, configuration.server.engine);
  add_queue_flags(app, configuration.server.engine);
  add_server_flags(app, configuration);
  add_connection_flags(app, configuration.server);
  add_security_flags(app, configuration.server.security);
  add_memory_flags(app, configuration.server);
}

void OptionParser::parse(std::vector<std::string> arguments) {
  std::ranges::reverse(arguments);  // as CLI11 wants them
  app.parse(std::move(arguments));
  check_together(configuration.server.engine);
  check_memory(configuration.server);
}

}  // namespace kascade::server
