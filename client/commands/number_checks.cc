#include "client/commands/number_checks.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <limits>
#include <system_error>

#include "tools/options/number_option.h"

namespace kascade::client {
namespace {

std::string finite(const std::string& text) {
  constexpr double kLargest = std::numeric_limits<double>::max();
  return options::parse_number(text, -kLargest, kLargest) ? "" : "must be a number, not " + text;
}

}  // namespace

std::string unsigned_number(const std::string& text) {
  uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [parsed, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc() && parsed == end) return "";
  return fmt::format("must be a whole number from 0 to {}, not {}",
                     std::numeric_limits<uint64_t>::max(), text);
}

CLI::Validator whole_number(int64_t least, int64_t most) {
  return {[=](const std::string& text) -> std::string {
            if (options::parse_whole(text, least, most)) return "";
            return fmt::format("must be a whole number from {} to {}, not {}", least, most, text);
          },
          ""};
}

CLI::Validator number_between(double least, double most) {
  return {[=](const std::string& text) -> std::string {
            if (options::parse_number(text, least, most)) return "";
            return fmt::format("must be a number from {:.15g} to {:.15g}, not {}", least, most,
                               text);
          },
          ""};
}

void check_numbers(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    const std::string type = option->get_type_name();
    if (type.starts_with("INT")) {
      option->check(
          whole_number(std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()));
    } else if (type.starts_with("UINT")) {
      option->check(CLI::Validator(unsigned_number, ""));
    } else if (type.starts_with("FLOAT")) {
      option->check(CLI::Validator(finite, ""));
    }
  }
  for (CLI::App* command : app.get_subcommands(nullptr)) check_numbers(*command);
}

}  // namespace kascade::client
