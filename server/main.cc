// kascade-server: flags → ServerOptions, signals → drain.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <system_error>

#include "CLI/CLI.hpp"
#include "absl/strings/str_join.h"
#include "grpc/support/log.h"
#include "server/server.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"
#include "tools/version/version.h"

namespace {

using kascade::server::Server;
using kascade::server::ServerOptions;

struct Flags {
  ServerOptions server{};
  double drain_seconds = 30;
  std::string log_level = "info";
  std::filesystem::path port_file{};
};

void add_engine_flags(CLI::App& app, kascade::EngineOptions& engine) {
  app.add_option("--model", engine.model_directory, "Llama checkpoint folder, Hugging Face layout")
      ->required()
      ->type_name("DIR");
  app.add_option("--backend", engine.backend, "auto takes the fastest one of this machine")
      ->check(CLI::IsMember({"auto", "reference", "cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--weights", engine.weights,
                 "Computed with; auto keeps the checkpoint's where the backend can; int8 and int4 "
                 "round them to save memory and time")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "int8", "int4"}))
      ->capture_default_str();
  app.add_option("--kv-cache-dtype", engine.kv_cache_dtype,
                 "Keys and values; auto is f32 beside f32 weights, else bf16; int8 holds nearly "
                 "twice the tokens of bf16")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "int8"}))
      ->capture_default_str();
  app.add_option("--weights-cache", engine.weights_cache,
                 "Keeps packed weights here and maps them at later starts; default: packs at each")
      ->type_name("DIR");
  const std::map<std::string, int64_t> units{
      {"KiB", int64_t{1} << 10}, {"MiB", int64_t{1} << 20}, {"GiB", int64_t{1} << 30}};
  app.add_option("--kv-memory", engine.kv_memory_bytes,
                 "Bytes of the KV cache, or a number with KiB, MiB, GiB; 0 = what --max-sequences "
                 "full contexts need, at most a quarter of the free memory")
      ->transform(CLI::AsNumberWithUnit(units, CLI::AsNumberWithUnit::CASE_INSENSITIVE, "BYTES"))
      ->capture_default_str();
  app.add_option("--threads", engine.threads, "Compute threads; 0 = one per usable core")
      ->capture_default_str();
  app.add_flag("--pin-threads", engine.pin_threads,
               "Binds each compute thread to a CPU of its own, in the order of the affinity mask");
  app.add_option("--max-batch-tokens", engine.max_batch_tokens,
                 "Tokens computed in one step; at least --max-sequences + 256")
      ->capture_default_str();
  app.add_option("--max-step-ms", engine.max_step_ms,
                 "While sequences decode, prompts are fed in chunks that let a step take about so "
                 "long at most; 0 = no limit")
      ->capture_default_str();
  app.add_option("--max-sequences", engine.max_sequences,
                 "Sequences running at once; a comparison counts as two")
      ->capture_default_str();
  app.add_option("--max-queue", engine.max_queue, "Sequences waiting; more get RESOURCE_EXHAUSTED")
      ->capture_default_str();
}

void add_server_flags(CLI::App& app, Flags& flags) {
  ServerOptions& server = flags.server;
  app.add_option("--listen", server.listen, "gRPC address, HOST:PORT; port 0 = any free one")
      ->capture_default_str();
  app.add_option("--metrics-listen", server.metrics_listen,
                 "Prometheus address, HOST:PORT; empty = none")
      ->capture_default_str();
  app.add_option("--schedule", server.schedule_file, "Schedule file that is activated at start")
      ->check(CLI::ExistingFile)
      ->type_name("FILE");
  app.add_option("--schedule-dir", server.schedule_directory,
                 "Where schedules are kept, and which one is active; default: in memory only")
      ->type_name("DIR");
  app.add_option("--max-message-bytes", server.max_message_bytes, "Largest request, bytes")
      ->check(CLI::Range(int64_t{1} << 16, (int64_t{1} << 31) - 1))
      ->capture_default_str();
  app.add_option("--drain-seconds", flags.drain_seconds,
                 "Time for running requests after SIGTERM or SIGINT; a second signal, or one while "
                 "the model is loading, ends at once")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app.add_option("--log-level", flags.log_level)
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_option("--port-file", flags.port_file,
                 "Written once the server serves: the gRPC port and the metrics port, a line each")
      ->type_name("FILE");
}

void log_configuration(const Flags& flags, Server& server) {
  for (const std::string& warning : server.engine().info().warnings) spdlog::warn("{}", warning);
  const ServerOptions& options = flags.server;
  const kascade::EngineOptions& engine = options.engine;
  const kascade::EngineInfo& info = server.engine().info();
  spdlog::info(
      "serving model={} backend={} weights={} cache={} threads={} pinned_cpus={} listen={} port={} "
      "metrics_listen={} metrics_port={} kv_memory={} max_batch_tokens={} max_step_ms={} "
      "max_sequences={} "
      "max_queue={} max_message_bytes={} drain_seconds={} schedule_file={} schedule_dir={} "
      "weights_cache=\"{}\" load_seconds={:.2f}",
      engine.model_directory.string(), info.backend, std::string(name_of(info.weights)),
      std::string(name_of(info.cache)), info.threads,
      info.cpus.empty() ? "none" : absl::StrJoin(info.cpus, ","), options.listen, server.port(),
      options.metrics_listen.empty() ? "none" : options.metrics_listen, server.metrics_port(),
      info.kv_pool_bytes, engine.max_batch_tokens, engine.max_step_ms, engine.max_sequences,
      engine.max_queue, options.max_message_bytes, flags.drain_seconds,
      options.schedule_file.empty() ? "none" : options.schedule_file.string(),
      options.schedule_directory.empty() ? "none (in memory only)"
                                         : options.schedule_directory.string(),
      info.weights_cache.empty() ? "none" : info.weights_cache,
      absl::ToDoubleSeconds(info.load_time));
}

// Renamed into place, so that whoever waits for the file finds both lines.
bool write_port_file(const std::filesystem::path& file, const Server& server) {
  if (file.empty()) return true;
  const std::filesystem::path temporary = file.string() + ".tmp";
  {
    std::ofstream out(temporary);
    out << server.port() << "\n" << server.metrics_port() << "\n";
    if (!out.flush()) return false;
  }
  std::error_code error;
  std::filesystem::rename(temporary, file, error);
  return !error;
}

// Waits for `work`; the signal that came before its end, or 0.
template <typename Result>
int signal_during(const std::future<Result>& work, const sigset_t& signals) {
  const timespec tick{.tv_sec = 0, .tv_nsec = 20'000'000};
  do {
    if (const int signal = sigtimedwait(&signals, nullptr, &tick); signal > 0) return signal;
  } while (work.wait_for(std::chrono::seconds(0)) != std::future_status::ready);
  return 0;
}

// Without unwinding: other threads are at work.
[[noreturn]] void end_at_once(int code) {
  spdlog::shutdown();
  std::_Exit(code);
}

// A signal ends the process at once, whatever is left of the load: nothing was promised to anyone
// yet.
absl::StatusOr<std::unique_ptr<Server>> start(const ServerOptions& options,
                                              const sigset_t& signals) {
  auto started = std::async(std::launch::async, [&] { return Server::start(options); });
  if (const int signal = signal_during(started, signals); signal != 0) {
    spdlog::info("signal {}: ending while the model is loading", signal);
    end_at_once(0);
  }
  return started.get();
}

// Until the first signal; the next one ends the process at once.
void serve_until_signal(Server& server, const sigset_t& signals, absl::Duration grace) {
  int signal = 0;
  sigwait(&signals, &signal);
  spdlog::info("signal {}: draining for at most {} s", signal, absl::ToInt64Seconds(grace));
  auto drained = std::async(std::launch::async, [&] { server.drain(grace); });
  if (signal_during(drained, signals) != 0) {
    spdlog::warn("second signal: ending at once");
    end_at_once(1);
  }
}

int fail(const std::string& message) {
  std::fprintf(stderr, "kascade-server: %s\n", message.c_str());
  return 1;
}

int run(const Flags& flags) {
  // Blocked before any thread starts, so that all inherit it and only sigwait sees them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  spdlog::set_default_logger(spdlog::stderr_logger_mt("kascade"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  spdlog::set_level(spdlog::level::from_str(flags.log_level));
  gpr_set_log_function(+[](gpr_log_func_args* args) { spdlog::debug("grpc: {}", args->message); });

  auto server = start(flags.server, signals);
  if (!server.ok()) return fail(std::string(server.status().message()));
  if (!write_port_file(flags.port_file, **server)) {
    return fail("cannot write " + flags.port_file.string());
  }
  log_configuration(flags, **server);
  serve_until_signal(**server, signals, absl::Seconds(flags.drain_seconds));
  spdlog::info("stopped");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Serves a Llama model over gRPC, with Kascade sparse attention.", "kascade-server");
  app.set_version_flag("--version", kascade::version_line());
  add_engine_flags(app, flags.server.engine);
  add_server_flags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return run(flags);
}
