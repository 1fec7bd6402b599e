#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <iostream>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "server/config.h"
#include "server/config_file.h"
#include "server/option_parser.h"

namespace kascade::server {
namespace {

// What a running server can change (server/reload.cc).
constexpr std::string_view kReloadable[] = {
    "max-queue",     "max-queued-tokens", "max-wait-seconds", "drain-delay-seconds",
    "drain-seconds", "log-level",         "log-format",       "shadow-rate"};

std::string name_of_option(const CLI::Option& option) {
  std::string name = option.get_name();
  return name.starts_with("--") ? name.substr(2) : name;
}

// Options of the configuration, not requests of the command line.
bool is_setting(const CLI::Option* option) {
  const std::string name = name_of_option(*option);
  return name != "help" && name != "version" && name != "config" && name != "print-config";
}

bool is_flag(const CLI::Option& option) { return option.get_items_expected_max() == 0; }

std::string environment_name(const std::string& name) {
  std::string upper = name;
  std::ranges::transform(upper, upper.begin(), [](unsigned char c) {
    return c == '-' ? '_' : static_cast<char>(std::toupper(c));
  });
  return absl::StrCat("KASCADE_SERVER_", upper);
}

std::string environment_value(const CLI::Option& option) {
  const char* value = std::getenv(environment_name(name_of_option(option)).c_str());
  return value == nullptr ? "" : value;
}

void add_environment(CLI::App& app) {
  for (CLI::Option* option : app.get_options(is_setting)) {
    option->envname(environment_name(name_of_option(*option)));
  }
}

// Where options are given, by their names without dashes.
struct Sources {
  std::set<std::string> flags{};
  std::map<std::string, ConfigEntry> file{};

  // Before the value is checked: "FILE:LINE", "environment NAME", "flag", "default".
  std::string of(const CLI::Option& option) const {
    const std::string name = name_of_option(option);
    if (flags.contains(name)) return "flag";
    if (const auto found = file.find(name); found != file.end()) return found->second.place;
    if (!environment_value(option).empty()) {
      return absl::StrCat("environment ", environment_name(name));
    }
    return "default";
  }
};

// The options on the command line. Throws what is wrong with them alone; what they lack may stand
// in the file or the environment.
std::set<std::string> given_flags(const std::vector<std::string>& arguments, std::string& file) {
  OptionParser parser;
  try {
    parser.parse(arguments);
  } catch (const CLI::RequiredError&) {
  } catch (const CLI::RequiresError&) {
  } catch (const CLI::ValidationError&) {
    // Told when all sources are known: values of two options may contradict each other.
  }
  std::set<std::string> names;
  for (const CLI::Option* option : parser.app.get_options()) {
    if (option->count() > 0) names.insert(name_of_option(*option));
  }
  const CLI::Option& config = *parser.app.get_option("--config");
  file = config.count() > 0 ? config.results().back() : environment_value(config);
  return names;
}

// The entries of the file by name. INVALID_ARGUMENT: those of read_config_file(), or no option has
// this name.
absl::StatusOr<std::map<std::string, ConfigEntry>> known_entries(const std::string& file) {
  std::map<std::string, ConfigEntry> by_name;
  if (file.empty()) return by_name;
  auto entries = read_config_file(file);
  if (!entries.ok()) return entries.status();
  std::vector<std::string> names;
  OptionParser parser;
  for (const CLI::Option* option : parser.app.get_options(is_setting)) {
    names.push_back(name_of_option(*option));
  }
  for (ConfigEntry& entry : *entries) {
    if (std::ranges::find(names, entry.name) == names.end()) {
      const std::string_view nearest = nearest_name(entry.name, names);
      return absl::InvalidArgumentError(absl::StrCat(
          entry.place, ": ", entry.name, ": no such option",
          nearest.empty() ? "" : absl::StrCat("; the nearest one is ", std::string(nearest))));
    }
    std::string name = entry.name;
    by_name.emplace(std::move(name), std::move(entry));
  }
  return by_name;
}

// What CLI11 says of a value begins with the option; a value that is not a flag gets its place in
// front.
std::string with_place(const std::string& message, const CLI::App& app, const Sources& sources) {
  const std::string name = message.substr(0, message.find(':'));
  const CLI::Option* option = app.get_option_no_throw(name);
  if (option == nullptr) return message;
  const std::string source = sources.of(*option);
  const bool is_given = source != "flag" && source != "default";
  return is_given ? absl::StrCat(source, ": ", message) : message;
}

std::vector<core::ConfiguredOption> configured_options(const CLI::App& app,
                                                       const Sources& sources) {
  std::vector<core::ConfiguredOption> out;
  for (const CLI::Option* option : app.get_options(is_setting)) {
    const std::string name = name_of_option(*option);
    const std::string unset = is_flag(*option) ? "false" : option->get_default_str();
    out.push_back({.name = name,
                   .value = option->count() > 0 ? option->results().front() : unset,
                   .source = sources.of(*option),
                   .reloadable = std::ranges::find(kReloadable, name) != std::end(kReloadable)});
  }
  return out;
}

// Throws CLI::ParseError where the message is CLI11's: help, version and wrong flags.
absl::StatusOr<Configuration> parse_all(const std::vector<std::string>& arguments) {
  std::string file;
  Sources sources{.flags = given_flags(arguments, file)};
  auto entries = known_entries(file);
  if (!entries.ok()) return entries.status();
  sources.file = *std::move(entries);
  OptionParser parser;
  std::vector<std::string> all;
  for (const auto& [name, entry] : sources.file) {
    if (sources.flags.contains(name)) continue;
    if (is_flag(*parser.app.get_option("--" + name))) {
      all.push_back(absl::StrCat("--", name, "=", entry.value));
    } else {  // a value may be empty, which "--name=" cannot say
      all.insert(all.end(), {absl::StrCat("--", name), entry.value});
    }
  }
  all.insert(all.end(), arguments.begin(), arguments.end());
  add_environment(parser.app);
  try {
    parser.parse(std::move(all));
  } catch (const CLI::Success&) {
    throw;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(with_place(error.what(), parser.app, sources));
  }
  Configuration out = std::move(parser.configuration);
  out.server.configured_options = configured_options(parser.app, sources);
  return out;
}

}  // namespace

absl::StatusOr<Configuration> configure(const std::vector<std::string>& arguments) {
  try {
    return parse_all(arguments);
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

ParsedConfiguration parse_configuration(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  try {
    auto configuration = parse_all(arguments);
    if (configuration.ok()) return {.configuration = *std::move(configuration)};
    std::cerr << configuration.status().message() << "\nRun with --help for more information.\n";
    return {.exit_code = 2};
  } catch (const CLI::ParseError& error) {
    OptionParser parser;
    add_environment(parser.app);
    return {.exit_code = parser.app.exit(error) == 0 ? 0 : 2};
  }
}

}  // namespace kascade::server
