// kascade, the command-line client of kascade-server.
#include <fmt/format.h>
#include <grpc/support/log.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <string>

#include "client/commands/commands.h"
#include "client/commands/number_checks.h"
#include "client/rpc/credentials.h"
#include "client/rpc/failure.h"
#include "tools/terminal/standard_streams.h"
#include "tools/version/version.h"

namespace kascade::client {
namespace {

void add_global_options(CLI::App& app, Globals& globals) {
  app.set_version_flag("--version", version_line());
  app.add_option("--server", globals.server, "Address of the server")
      ->envname("KASCADE_SERVER")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app.add_flag("--json", globals.json, "One JSON object on standard output (eval: --suite recall)");
  app.add_option("--timeout", globals.timeout_seconds, "Give up after so many seconds [never]")
      ->type_name("SECONDS")
      ->check(number_between(0, 1e9));
}

void add_credentials(CLI::App& app, Credentials& credentials) {
  app.add_flag("--tls", credentials.tls, "Connect with TLS; so do the options --tls-…");
  app.add_option("--tls-ca", credentials.authorities,
                 "Authorities that sign the server's certificate [the system's]")
      ->type_name("FILE");
  CLI::Option* certificate =
      app.add_option("--tls-cert", credentials.certificate, "Certificate of this client [none]")
          ->type_name("FILE");
  CLI::Option* key =
      app.add_option("--tls-key", credentials.key, "Key of that certificate")->type_name("FILE");
  certificate->needs(key);
  key->needs(certificate);
  app.add_option("--token-file", credentials.token_file,
                 "File with the access token to send [the variable KASCADE_TOKEN, or none]")
      ->type_name("FILE");
}

// Parses the command line and runs the chosen command. Returns its exit code; a parsing error is
// printed as one line.
int parse_and_run(int argc, char** argv) {
  CLI::App app("Client of kascade-server: sparse attention made, measured and used.", "kascade");
  Globals globals;
  Action chosen;
  add_global_options(app, globals);
  add_credentials(app, globals.credentials);
  app.require_subcommand(1);
  app.fallthrough();  // so that global options such as --json may come last
  app.footer(
      "Exit codes: 0 success, 1 error, 2 wrong usage, 3 a quality check or a demand was not met.\n"
      "kascade COMMAND --help tells a command's options.");
  add_benchmark(app, globals, chosen);
  add_check(app, globals, chosen);
  add_calibrate(app, globals, chosen);
  add_score(app, globals, chosen);
  add_generate(app, globals, chosen);
  add_trace(app, globals, chosen);
  add_eval(app, globals, chosen);
  add_tokenize(app, globals, chosen);
  add_info(app, globals, chosen);
  add_config(app, globals, chosen);
  add_schedules(app, globals, chosen);
  add_jobs(app, globals, chosen);
  check_numbers(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    // CLI11 would report that a command is missing instead of that this one is unknown.
    const auto rest = app.remaining();
    const bool unknown = app.get_subcommands().empty() && !rest.empty();
    const std::string what = unknown ? "no such command: " + rest.front() : error.what();
    print_failure(absl::InvalidArgumentError(what + " (see kascade --help)"));
    return kUsage;
  }
  const absl::Status token = read_token(globals.credentials);
  return token.ok() ? chosen() : fail(token);
}

}  // namespace
}  // namespace kascade::client

int main(int argc, char** argv) {
  using namespace kascade::client;
  open_standard_streams();
  watch_interrupts();
  // gRPC's log would be mixed with our one-line error messages.
  if (std::getenv("GRPC_VERBOSITY") == nullptr) gpr_set_log_function([](gpr_log_func_args*) {});
  return run_with_standard_output("kascade", [&] { return parse_and_run(argc, argv); });
}
