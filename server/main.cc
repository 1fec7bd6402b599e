// kascade-server: a configuration → a server, signals → drain.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <string>
#include <system_error>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "google/protobuf/stubs/logging.h"
#include "grpc/support/log.h"
#include "server/config.h"
#include "server/grpc/server.h"
#include "server/log_format.h"
#include "server/weights_loss.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"
#include "tools/terminal/standard_streams.h"

namespace {

using kascade::server::Configuration;
using kascade::server::Server;
using kascade::server::ServerOptions;

// For requests on connections that were accepted last, before requests are refused.
constexpr absl::Duration kAfterLastConnection = absl::Seconds(1);

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
void serve_until_signal(Server& server, const sigset_t& signals, absl::Duration delay,
                        absl::Duration grace) {
  int signal = 0;
  sigwait(&signals, &signal);
  server.leave();
  spdlog::info("signal {}: accepting requests for {} s, then draining for at most {} s", signal,
               absl::ToDoubleSeconds(delay), absl::ToInt64Seconds(grace));
  auto drained = std::async(std::launch::async, [&] {
    const absl::Duration after_last_connection = std::min(delay / 2, kAfterLastConnection);
    absl::SleepFor(delay - after_last_connection);
    server.close_listener();
    absl::SleepFor(after_last_connection);
    server.drain(grace);
  });
  if (signal_during(drained, signals) != 0) {
    spdlog::warn("second signal: ending at once");
    end_at_once(1);
  }
}

int fail(const std::string& message) {
  std::fprintf(stderr, "kascade-server: %s\n", message.c_str());
  return 1;
}

int run(const Configuration& configuration) {
  // Blocked before any thread starts, so that all inherit it and only sigwait sees them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  spdlog::set_default_logger(spdlog::stderr_logger_mt("kascade"));
  spdlog::set_formatter(kascade::server::log_formatter());
  spdlog::set_level(spdlog::level::from_str(configuration.log_level));
  gpr_set_log_function(+[](gpr_log_func_args* args) { spdlog::debug("grpc: {}", args->message); });
  // Else whoever sends a text that is not UTF-8 writes a line to standard error.
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel, const char*, int, const std::string& message) {
        spdlog::debug("protobuf: {}", message);
      });

  auto server = start(configuration.server, signals);
  if (!server.ok()) return fail(std::string(server.status().message()));
  if (!write_port_file(configuration.port_file, **server)) {
    return fail("cannot write " + configuration.port_file.string());
  }
  for (const std::string& warning : (*server)->engine().info().warnings) {
    spdlog::warn("{}", warning);
  }
  spdlog::info("{}", kascade::server::configuration_line(configuration, **server));
  const auto weights = name_of((*server)->engine().info().weights);
  if (const auto loss = kascade::server::weights_loss_line(weights); !loss.empty()) {
    spdlog::info("{}", loss);
  }
  serve_until_signal(**server, signals, absl::Seconds(configuration.drain_delay_seconds),
                     absl::Seconds(configuration.drain_seconds));
  spdlog::info("stopped");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  kascade::client::open_standard_streams();
  const auto parsed = kascade::server::parse_configuration(argc, argv);
  if (parsed.configuration) return run(*parsed.configuration);
  return kascade::client::run_with_standard_output("kascade-server",
                                                   [&] { return parsed.exit_code; });
}
