// Command-line options whose value is a number. The text is parsed and checked here, so that no
// number wraps, saturates or is a NaN, and every program refuses it in the same words.
#ifndef KASCADE_TOOLS_OPTIONS_NUMBER_OPTION_H_
#define KASCADE_TOOLS_OPTIONS_NUMBER_OPTION_H_

#include <CLI/CLI.hpp>
#include <concepts>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace kascade::options {

// Each returns nothing for a text that is not, as a whole, a number in [low, high]. A whole number
// is written in decimal digits; any number in decimal, with or without an exponent.
std::optional<int64_t> parse_whole(std::string_view text, int64_t low, int64_t high);
std::optional<double> parse_number(std::string_view text, double low, double high);

// A whole number with or without one of these units behind it, whatever its case: "64MiB", "2 GB".
using Units = std::map<std::string, int64_t>;
std::optional<int64_t> parse_bytes(std::string_view text, const Units& units, int64_t low,
                                   int64_t high);
const Units& binary_units();   // KiB, MiB, GiB
const Units& storage_units();  // the same and TiB; KB, MB, GB, TB in powers of 1000; B, K, M, G, T

// Each adds an option that is refused (CLI::ValidationError) with the words "expected … from LOW to
// HIGH, found …". `value` must outlive `app`; its value here is the default that --help tells.
CLI::Option* add_whole(CLI::App& app, const std::string& name, int64_t& value, int64_t low,
                       int64_t high, const std::string& description);
CLI::Option* add_whole(CLI::App& app, const std::string& name, int32_t& value, int32_t low,
                       int32_t high, const std::string& description);
CLI::Option* add_number(CLI::App& app, const std::string& name, double& value, double low,
                        double high, const std::string& description);
CLI::Option* add_number(CLI::App& app, const std::string& name, std::optional<double>& value,
                        double low, double high, const std::string& description);
CLI::Option* add_bytes(CLI::App& app, const std::string& name, int64_t& value, const Units& units,
                       int64_t low, int64_t high, const std::string& description);

}  // namespace kascade::options

#endif  // KASCADE_TOOLS_OPTIONS_NUMBER_OPTION_H_
