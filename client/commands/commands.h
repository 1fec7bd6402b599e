// The commands: each adds itself with its options to the parser and, when it is the one that the
// user named, sets `chosen` to what main then runs for the exit code.
#ifndef KASCADE_CLIENT_COMMANDS_COMMANDS_H_
#define KASCADE_CLIENT_COMMANDS_COMMANDS_H_

#include <CLI/App.hpp>
#include <functional>

#include "client/rpc/call.h"

namespace kascade::client {

using Action = std::function<int()>;

void add_calibrate(CLI::App& app, const Globals& globals, Action& chosen);
void add_score(CLI::App& app, const Globals& globals, Action& chosen);
void add_generate(CLI::App& app, const Globals& globals, Action& chosen);
void add_eval(CLI::App& app, const Globals& globals, Action& chosen);
void add_tokenize(CLI::App& app, const Globals& globals, Action& chosen);   // and detokenize
void add_info(CLI::App& app, const Globals& globals, Action& chosen);       // and health
void add_schedules(CLI::App& app, const Globals& globals, Action& chosen);  // show and activate
void add_jobs(CLI::App& app, const Globals& globals, Action& chosen);       // jobs, watch, cancel

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_COMMANDS_H_
