#include "engine/model/config_fields.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kascade {

using nlohmann::json;

ConfigFields::ConfigFields(const json& object, std::string where, absl::Status& first_error)
    : object_(object), where_(std::move(where)), first_error_(first_error) {}

const json* ConfigFields::find(const std::string& key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void ConfigFields::invalid(const std::string& key, const std::string& expected,
                           const json& found) const {
  fail(absl::StatusCode::kInvalidArgument, key,
       absl::StrCat("expected ", expected, ", found ", shown(found)));
}

void ConfigFields::unsupported(const std::string& key, const std::string& expected,
                               const json& found) const {
  fail(absl::StatusCode::kUnimplemented, key,
       absl::StrCat("only ", expected, " is supported, found ", shown(found)));
}

void ConfigFields::missing(const std::string& key) const {
  fail(absl::StatusCode::kInvalidArgument, key, "is missing");
}

int32_t ConfigFields::integer(const std::string& key, int64_t low, int64_t high) const {
  const json* value = required(key);
  return value ? integer(key, *value, low, high) : static_cast<int32_t>(low);
}

int32_t ConfigFields::integer_or(const std::string& key, int64_t low, int64_t high,
                                 int32_t fallback) const {
  const json* value = find(key);
  return value ? integer(key, *value, low, high) : fallback;
}

int32_t ConfigFields::integer(const std::string& key, const json& value, int64_t low,
                              int64_t high) const {
  const std::optional<int64_t> number = as_integer(value);
  if (number && *number >= low && *number <= high) return static_cast<int32_t>(*number);
  invalid(key, absl::StrCat("an integer in ", low, "..", high), value);
  return static_cast<int32_t>(low);
}

double ConfigFields::number(const std::string& key, double low, double high) const {
  const json* value = required(key);
  return value ? number(key, *value, low, high) : low;
}

std::optional<double> ConfigFields::maybe_number(const std::string& key, double low,
                                                 double high) const {
  const json* value = find(key);
  return value ? std::optional(number(key, *value, low, high)) : std::nullopt;
}

bool ConfigFields::boolean_or(const std::string& key, bool fallback) const {
  const json* value = find(key);
  if (value && !value->is_boolean()) invalid(key, "true or false", *value);
  return value && value->is_boolean() ? value->get<bool>() : fallback;
}

std::optional<std::string> ConfigFields::maybe_text(const std::string& key) const {
  const json* value = find(key);
  if (!value) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  invalid(key, "a string", *value);
  return std::nullopt;
}

ConfigFields ConfigFields::inside(const std::string& key, const json& value) const {
  return {value, absl::StrCat(where_, key, "."), first_error_};
}

const json* ConfigFields::required(const std::string& key) const {
  const json* value = find(key);
  if (!value) missing(key);
  return value;
}

double ConfigFields::number(const std::string& key, const json& value, double low,
                            double high) const {
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  if (number >= low && number <= high) return number;
  invalid(key, absl::StrCat("a number in ", low, "..", high), value);
  return low;
}

void ConfigFields::fail(absl::StatusCode code, const std::string& key,
                        const std::string& fault) const {
  if (first_error_.ok()) first_error_ = absl::Status(code, absl::StrCat(where_, key, ": ", fault));
}

}  // namespace kascade
