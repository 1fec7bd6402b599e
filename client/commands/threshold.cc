#include "client/commands/threshold.h"

#include <charconv>
#include <optional>

namespace kascade::client {
namespace {

// The threshold as a number; nullopt for "auto" and for what is none.
std::optional<double> parse_threshold(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

std::string check_threshold(const std::string& text) {
  const std::optional<double> value = parse_threshold(text);
  return text == "auto" || (value && *value >= 0 && *value <= 1)
             ? ""
             : "not auto or a number from 0 to 1: " + text;
}

void set_threshold(const std::string& text, v1::CalibrateRequest& request) {
  if (text == "auto") request.set_auto_threshold(true);
  if (const auto threshold = parse_threshold(text)) request.set_threshold(*threshold);
}

}  // namespace kascade::client
