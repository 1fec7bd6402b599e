// The configuration of kascade-server: one struct, from flags, a file and the environment.
#ifndef KASCADE_SERVER_CONFIG_H_
#define KASCADE_SERVER_CONFIG_H_

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/grpc/server.h"

namespace kascade::server {

struct Configuration {
  ServerOptions server{};
  double drain_delay_seconds = 0;  // after the first signal, in which requests are still accepted
  double drain_seconds = 30;       // for running requests after that
  std::string log_level = "info";
  std::string log_format = "text";    // text, json
  std::filesystem::path port_file{};  // empty: none is written
  std::string print_format{};         // of the options, to print instead of serving; empty: serve
};

// What to run with, from the arguments after the program's name. A flag wins over the file that
// --config names, and the file over the environment (KASCADE_SERVER_LISTEN for --listen).
// INVALID_ARGUMENT names what is wrong: the flag, "FILE:LINE: --NAME" or "environment NAME:
// --NAME", with the value and the limit.
absl::StatusOr<Configuration> configure(const std::vector<std::string>& arguments);

// The same, or the exit code where there is nothing to run: after --help, --version or an error,
// which is told on standard output or standard error.
struct ParsedConfiguration {
  std::optional<Configuration> configuration{};
  int exit_code = 0;  // 2 for wrong usage
};
ParsedConfiguration parse_configuration(int argc, char** argv);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_CONFIG_H_
