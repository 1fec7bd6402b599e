// Reads the configuration again while the server runs, and takes over what can change.
#ifndef KASCADE_SERVER_RELOAD_H_
#define KASCADE_SERVER_RELOAD_H_

#include <string>
#include <vector>

#include "server/config.h"
#include "server/core/configured_options.h"
#include "server/grpc/server.h"

namespace kascade::server {

// What differs between the options in force and those that were read again: names of options.
struct ConfigurationChange {
  std::vector<std::string> taken{};                // reloadable
  std::vector<std::string> need_restart{};         // others
  std::vector<core::ConfiguredOption> in_force{};  // after the reload
};
ConfigurationChange change_between(const std::vector<core::ConfiguredOption>& running,
                                   const std::vector<core::ConfiguredOption>& read);

// Not thread-safe: one thread handles signals.
class Reloader {
 public:
  // `arguments` are those that `running` came from.
  Reloader(std::vector<std::string> arguments, Configuration running)
      : arguments_(std::move(arguments)), running_(std::move(running)) {}

  // Reads the file and, at once instead of within a second, the TLS and token files. What is
  // wrong with a file is logged, and nothing of it is taken over. The log names what changed, and
  // what waits for a restart.
  void reload(Server& server);
  // In force; of options that need a restart, the values from the start.
  const Configuration& running() const { return running_; }

 private:
  void take_over(const Configuration& read, Server& server);

  const std::vector<std::string> arguments_;
  Configuration running_;
};

// Level and format of what the server logs from now on. Thread-safe.
void set_log(const Configuration& configuration);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_RELOAD_H_
