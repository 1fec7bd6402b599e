#include "client/commands/number_checks.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>

namespace kascade::client {
namespace {

// The number that the whole text is. `Number` is large enough for every text that may be valid.
template <typename Number>
std::optional<Number> parse(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::string finite(const std::string& text) {
  const auto number = parse<double>(text);
  return number && std::isfinite(*number) ? "" : "must be a finite number, not " + text;
}

}  // namespace

std::string unsigned_number(const std::string& text) {
  if (parse<uint64_t>(text)) return "";
  return fmt::format("must be a whole number from 0 to {}, not {}",
                     std::numeric_limits<uint64_t>::max(), text);
}

CLI::Validator whole_number(int64_t least, int64_t most) {
  return {[=](const std::string& text) -> std::string {
            const auto number = parse<int64_t>(text);
            if (number && *number >= least && *number <= most) return "";
            return fmt::format("must be a whole number from {} to {}, not {}", least, most, text);
          },
          ""};
}

CLI::Validator number_between(double least, double most) {
  return {[=](const std::string& text) -> std::string {
            const auto number = parse<double>(text);
            if (number && *number >= least && *number <= most) return "";
            return fmt::format("must be a number from {:.15g} to {:.15g}, not {}", least, most, text);
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
