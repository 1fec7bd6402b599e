// The commands of the client. Each function adds one command with its options to the parser. When
// the user names that command, it sets `chosen` to the function that main then runs and whose
// result is the exit code.
#ifndef KASCADE_CLIENT_COMMANDS_COMMANDS_H_
#define KASCADE_CLIENT_COMMANDS_COMMANDS_H_

#include <CLI/App.hpp>
#include <functional>

#include "client/rpc/call.h"

namespace kascade::client {

using Action = std::function<int()>;

void add_benchmark(CLI::App& app, const Globals& globals, Action& chosen);
void add_check(CLI::App& app, const Globals& globals, Action& chosen);
void add_calibrate(CLI::App& app, const Globals& globals, Action& chosen);
void add_score(CLI::App& app, const Globals& globals, Action& chosen);
void add_generate(CLI::App& app, const Globals& globals, Action& chosen);
void add_trace(CLI::App& app, const Globals& globals, Action& chosen);
void add_eval(CLI::App& app, const Globals& globals, Action& chosen);
void add_tokenize(CLI::App& app, const Globals& globals, Action& chosen);  // also adds detokenize
void add_info(CLI::App& app, const Globals& globals, Action& chosen);      // also adds health
void add_config(CLI::App& app, const Globals& globals, Action& chosen);
// also adds show and activate
void add_schedules(CLI::App& app, const Globals& globals, Action& chosen);
// adds jobs, watch and cancel
void add_jobs(CLI::App& app, const Globals& globals, Action& chosen);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_COMMANDS_COMMANDS_H_
