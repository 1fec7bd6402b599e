// The file that --config names: names of options and their values, each with its place.
#ifndef KASCADE_SERVER_CONFIG_FILE_H_
#define KASCADE_SERVER_CONFIG_FILE_H_

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace kascade::server {

struct ConfigEntry {
  std::string name{};   // without dashes in front
  std::string value{};  // as it is written, without quotes
  std::string place{};  // "FILE:LINE"
};

// A file whose name ends in .yaml or .yml is read as YAML, a mapping from names to single values;
// others as TOML, lines name=value. The error begins with the file, and with the line where that is
// known: a file that cannot be read or is larger than 1 MiB, a wrong form, a section, a name that
// occurs twice, a value that is missing or a list.
absl::StatusOr<std::vector<ConfigEntry>> read_config_file(const std::filesystem::path& file);

// The one of `names` that differs least from `name`, if it is close enough to be meant, else empty.
std::string_view nearest_name(std::string_view name, std::span<const std::string> names);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_CONFIG_FILE_H_
