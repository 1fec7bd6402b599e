#include "tools/options/number_option.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <functional>
#include <system_error>
#include <utility>

namespace kascade::options {
namespace {

constexpr size_t kMaxShownBytes = 60;

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  return text;
}

// As short as tells the number exactly: "0.5", "1000000", "1e+300".
std::string written(double number) {
  char text[32];
  const bool is_long = std::abs(number) >= 1e15 || (number != 0 && std::abs(number) < 1e-6);
  const auto form = is_long ? std::chars_format::scientific : std::chars_format::fixed;
  const auto [end, error] = std::to_chars(text, text + sizeof(text), number, form);
  return error == std::errc() ? std::string(text, end) : std::string();
}

std::string quoted(const std::string& text) {
  return '"' + text.substr(0, kMaxShownBytes) + (text.size() > kMaxShownBytes ? "…\"" : "\"");
}

[[noreturn]] void refuse(const std::string& name, const std::string& kind, const std::string& low,
                         const std::string& high, const std::string& found) {
  throw CLI::ValidationError(
      name, "expected " + kind + " from " + low + " to " + high + ", found " + quoted(found));
}

CLI::Option* add(CLI::App& app, const std::string& name, const std::string& description,
                 const char* type, const std::string& default_text,
                 const std::function<void(const std::string&)>& parse) {
  auto* option = app.add_option_function<std::string>(name, parse, description)->type_name(type);
  return default_text.empty() ? option : option->default_str(default_text);
}

template <std::integral Integer>
CLI::Option* add_integer(CLI::App& app, const std::string& name, Integer& value, Integer low,
                         Integer high, const std::string& description) {
  return add(app, name, description, "INT", std::to_string(value),
             [=, &value](const std::string& text) {
               const auto parsed = parse_whole(text, low, high);
               if (!parsed) {
                 refuse(name, "a whole number", std::to_string(low), std::to_string(high), text);
               }
               value = static_cast<Integer>(*parsed);
             });
}

template <typename Value>
CLI::Option* add_floating(CLI::App& app, const std::string& name, Value& value, double low,
                          double high, const std::string& description,
                          const std::string& default_text) {
  return add(app, name, description, "FLOAT", default_text, [=, &value](const std::string& text) {
    const auto parsed = parse_number(text, low, high);
    if (!parsed) refuse(name, "a number", written(low), written(high), text);
    value = *parsed;
  });
}

}  // namespace

std::optional<int64_t> parse_whole(std::string_view text, int64_t low, int64_t high) {
  const bool plus = text.starts_with('+');
  if (plus) text.remove_prefix(1);
  if (plus && text.starts_with('-')) return std::nullopt;
  int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop != end || number < low || number > high) return std::nullopt;
  return number;
}

std::optional<double> parse_number(std::string_view text, double low, double high) {
  const bool plus = text.starts_with('+');
  if (plus) text.remove_prefix(1);
  if (plus && text.starts_with('-')) return std::nullopt;
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  const bool inside = number >= low && number <= high;  // false for a NaN
  if (error != std::errc() || stop != end || !std::isfinite(number) || !inside) return std::nullopt;
  return number;
}

std::optional<int64_t> parse_bytes(std::string_view text, const Units& units, int64_t low,
                                   int64_t high) {
  text = trimmed(text);
  const size_t begin = std::min(text.find_first_not_of("+-0123456789"), text.size());
  const auto number = parse_whole(trimmed(text.substr(0, begin)), INT64_MIN, INT64_MAX);
  if (!number) return std::nullopt;
  int64_t factor = 1;
  if (const std::string unit = lower(trimmed(text.substr(begin))); !unit.empty()) {
    const auto found = std::ranges::find_if(
        units, [&](const auto& candidate) { return lower(candidate.first) == unit; });
    if (found == units.end()) return std::nullopt;
    factor = found->second;
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(*number, factor, &bytes)) return std::nullopt;
  return bytes >= low && bytes <= high ? std::optional(bytes) : std::nullopt;
}

const Units& binary_units() {
  static const Units kUnits = {
      {"KiB", int64_t{1} << 10}, {"MiB", int64_t{1} << 20}, {"GiB", int64_t{1} << 30}};
  return kUnits;
}

const Units& storage_units() {
  constexpr int64_t kThousand = 1000;
  static const Units kUnits = {{"B", 1},
                               {"K", kThousand},
                               {"KB", kThousand},
                               {"KiB", int64_t{1} << 10},
                               {"M", kThousand * kThousand},
                               {"MB", kThousand * kThousand},
                               {"MiB", int64_t{1} << 20},
                               {"G", kThousand * kThousand * kThousand},
                               {"GB", kThousand * kThousand * kThousand},
                               {"GiB", int64_t{1} << 30},
                               {"T", kThousand * kThousand * kThousand * kThousand},
                               {"TB", kThousand * kThousand * kThousand * kThousand},
                               {"TiB", int64_t{1} << 40}};
  return kUnits;
}

CLI::Option* add_whole(CLI::App& app, const std::string& name, int64_t& value, int64_t low,
                       int64_t high, const std::string& description) {
  return add_integer(app, name, value, low, high, description);
}

CLI::Option* add_whole(CLI::App& app, const std::string& name, int32_t& value, int32_t low,
                       int32_t high, const std::string& description) {
  return add_integer(app, name, value, low, high, description);
}

CLI::Option* add_number(CLI::App& app, const std::string& name, double& value, double low,
                        double high, const std::string& description) {
  return add_floating(app, name, value, low, high, description, written(value));
}

CLI::Option* add_number(CLI::App& app, const std::string& name, std::optional<double>& value,
                        double low, double high, const std::string& description) {
  return add_floating(app, name, value, low, high, description, value ? written(*value) : "");
}

CLI::Option* add_bytes(CLI::App& app, const std::string& name, int64_t& value, const Units& units,
                       int64_t low, int64_t high, const std::string& description) {
  std::string kind = "bytes, or a whole number with a unit (";
  for (const auto& [unit, factor] : units) kind += kind.ends_with('(') ? unit : ", " + unit;
  kind += "),";
  return add(app, name, description, "BYTES", std::to_string(value),
             [=, &value, &units](const std::string& text) {
               const auto parsed = parse_bytes(text, units, low, high);
               if (!parsed) refuse(name, kind, std::to_string(low), std::to_string(high), text);
               value = *parsed;
             });
}

}  // namespace kascade::options
