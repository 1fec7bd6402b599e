// The configuration of kascade-server: one struct, from flags, a file and the environment.
#ifndef KASCADE_SERVER_CONFIG_H_
#define KASCADE_SERVER_CONFIG_H_

#include <filesystem>
#include <optional>
#include <string>

#include "server/grpc/server.h"

namespace kascade::server {

struct Configuration {
  ServerOptions server{};
  double drain_delay_seconds = 0;  // after the first signal, in which requests are still accepted
  double drain_seconds = 30;       // for running requests after that
  std::string log_level = "info";
  std::filesystem::path port_file{};  // empty: none is written
};

// What to run with, or the exit code where there is nothing to run: after --help, --version or an
// error, which is told on standard output or standard error. A flag wins over the file that
// --config names, and the file over the environment (KASCADE_SERVER_LISTEN for --listen).
struct ParsedConfiguration {
  std::optional<Configuration> configuration{};
  int exit_code = 0;  // 2 for wrong usage, 1 if what was asked for could not be printed
};
ParsedConfiguration parse_configuration(int argc, char** argv);

// One line of "name=value" pairs, for the log.
std::string configuration_line(const Configuration& configuration, Server& server);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_CONFIG_H_
