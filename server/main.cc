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
#include <initializer_list>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "google/protobuf/stubs/logging.h"
#include "grpc/support/log.h"
#include "server/config.h"
#include "server/configuration_text.h"
#include "server/grpc/server.h"
#include "server/log/record.h"
#include "server/reload.h"
#include "server/weights_loss.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"
#include "tools/terminal/standard_streams.h"

namespace {

using kascade::server::Configuration;
using kascade::server::json_text;
using kascade::server::option_fields;
using kascade::server::Reloader;
using kascade::server::Server;
using kascade::server::ServerOptions;
using kascade::server::yaml_text;

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

sigset_t signal_set(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) sigaddset(&set, signal);
  return set;
}

void shut_down(Server& server, absl::Duration delay, absl::Duration grace) {
  const absl::Duration after_last_connection = std::min(delay / 2, kAfterLastConnection);
  absl::SleepFor(delay - after_last_connection);
  server.close_listener();
  absl::SleepFor(after_last_connection);
  server.drain(grace);
}

// Until the first signal of `ends`; the next one ends the process at once. `all`: these and SIGHUP.
void serve_until_signal(Server& server, Reloader& reloader, const sigset_t& ends,
                        const sigset_t& all) {
  int signal = 0;
  for (sigwait(&all, &signal); signal == SIGHUP; sigwait(&all, &signal)) reloader.reload(server);
  server.leave();
  const absl::Duration delay = absl::Seconds(reloader.running().drain_delay_seconds);
  const absl::Duration grace = absl::Seconds(reloader.running().drain_seconds);
  spdlog::info("signal {}: accepting requests for {} s, then draining for at most {} s", signal,
               absl::ToDoubleSeconds(delay), absl::ToInt64Seconds(grace));
  auto drained = std::async(std::launch::async, [&] { shut_down(server, delay, grace); });
  if (signal_during(drained, ends) != 0) {
    spdlog::warn("second signal: ending at once");
    end_at_once(1);
  }
}

// A person reads the error on a terminal, a program as a record.
int fail(const Configuration& configuration, const std::string& message) {
  if (configuration.log_format == "json") {
    spdlog::error("{}", message);
  } else {
    std::fprintf(stderr, "kascade-server: %s\n", message.c_str());
  }
  return 1;
}

void print(const Configuration& configuration) {
  const auto& options = configuration.server.configured_options;
  const std::string text =
      configuration.print_format == "json" ? json_text(options) : yaml_text(options);
  std::fputs(text.c_str(), stdout);
}

// All that this process says goes through one logger, also what the libraries say.
void open_log(const Configuration& configuration) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("kascade"));
  kascade::server::set_log(configuration);
  gpr_set_log_function(+[](gpr_log_func_args* args) { spdlog::debug("grpc: {}", args->message); });
  // Else whoever sends a text that is not UTF-8 writes a line to standard error.
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel, const char*, int, const std::string& message) {
        spdlog::debug("protobuf: {}", message);
      });
}

int run(const std::vector<std::string>& arguments, const Configuration& configuration) {
  // Blocked before any thread starts, so that all inherit it and only sigwait sees them.
  const sigset_t ends = signal_set({SIGTERM, SIGINT});
  const sigset_t all = signal_set({SIGTERM, SIGINT, SIGHUP});
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file that would exceed a limit is a failed write

  open_log(configuration);
  kascade::logging::write(spdlog::level::info, "configuration",
                          option_fields(configuration.server.configured_options));
  auto server = start(configuration.server, ends);
  if (!server.ok()) return fail(configuration, std::string(server.status().message()));
  if (!write_port_file(configuration.port_file, **server)) {
    return fail(configuration, "cannot write " + configuration.port_file.string());
  }
  for (const std::string& warning : (*server)->engine().info().warnings) {
    spdlog::warn("{}", warning);
  }
  kascade::logging::write(spdlog::level::info, "serving", serving_fields(configuration, **server));
  const auto weights = name_of((*server)->engine().info().weights);
  if (const auto loss = kascade::server::weights_loss_line(weights); !loss.empty()) {
    spdlog::info("{}", loss);
  }
  kascade::server::Reloader reloader(arguments, configuration);
  serve_until_signal(**server, reloader, ends, all);
  spdlog::info("stopped");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  kascade::client::open_standard_streams();
  const auto parsed = kascade::server::parse_configuration(argc, argv);
  const std::string print_format =
      parsed.configuration ? parsed.configuration->print_format : std::string();
  if (parsed.configuration && print_format.empty()) {
    return run({argv + std::min(argc, 1), argv + argc}, *parsed.configuration);
  }
  return kascade::client::run_with_standard_output("kascade-server", [&] {
    if (parsed.configuration) {
      print(*parsed.configuration);
    }
    return parsed.exit_code;
  });
}
