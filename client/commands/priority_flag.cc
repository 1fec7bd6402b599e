#include "client/commands/priority_flag.h"

#include <CLI/CLI.hpp>

#include "client/views/reports.h"

namespace kascade::client {

void add_priority_flag(CLI::App& command, const std::string& standard, std::string& priority) {
  command
      .add_option("--priority", priority,
                  "Whether somebody waits for the results: interactive requests start before batch "
                  "requests, and are refused instead of waiting long [" +
                      standard + "]")
      ->check(CLI::IsMember({"interactive", "batch"}));
}

v1::Priority priority_of(const std::string& priority) {
  return priority.empty() ? v1::PRIORITY_UNSPECIFIED : value_of<v1::Priority>(priority);
}

}  // namespace kascade::client
