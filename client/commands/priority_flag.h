// The option --priority of commands that make Generate and Score calls.
#ifndef KASCADE_CLIENT_COMMANDS_PRIORITY_FLAG_H_
#define KASCADE_CLIENT_COMMANDS_PRIORITY_FLAG_H_

#include <CLI/App.hpp>
#include <string>

#include "kascade/v1/priority.pb.h"

namespace kascade::client {

// `priority`: as typed; must outlive the command. `standard`: the default, for --help.
void add_priority_flag(CLI::App& command, const std::string& standard, std::string& priority);

// UNSPECIFIED, which stands for the default of the method, if the option was not given.
v1::Priority priority_of(const std::string& priority);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_PRIORITY_FLAG_H_
