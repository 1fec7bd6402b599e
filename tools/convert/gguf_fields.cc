#include "tools/convert/gguf_fields.h"

#include "absl/strings/str_cat.h"

namespace kascade::convert {

std::string GgufFields::key_of(std::string_view name) const {
  return absl::StrCat(architecture_, ".", std::string(name));
}

void GgufFields::fail(absl::StatusCode code, const std::string& key, const std::string& fault) {
  if (error_.ok()) error_ = absl::Status(code, absl::StrCat(file_.name(), ": ", key, ": ", fault));
}

void GgufFields::invalid(const std::string& key, const std::string& expected,
                         const std::string& found) {
  fail(absl::StatusCode::kInvalidArgument, key,
       absl::StrCat("expected ", expected, ", found ", found));
}

void GgufFields::unsupported(const std::string& key, const std::string& expected,
                             const std::string& found) {
  fail(absl::StatusCode::kUnimplemented, key,
       absl::StrCat("only ", expected, " is supported, found ", found));
}

void GgufFields::missing(const std::string& key) {
  fail(absl::StatusCode::kInvalidArgument, key, "is missing");
}

std::optional<int64_t> GgufFields::maybe_integer(const std::string& key) {
  const GgufValue* value = file_.find(key);
  if (!value) return std::nullopt;
  const auto number = value->is_array() ? std::nullopt : value->integer();
  if (!number) invalid(key, "an integer", value->shown());
  return number;
}

int64_t GgufFields::integer(const std::string& key) {
  if (!has(key)) missing(key);
  return maybe_integer(key).value_or(0);
}

std::optional<int64_t> GgufFields::maybe_uniform(const std::string& key) {
  const GgufValue* value = file_.find(key);
  if (!value || !value->is_array()) return maybe_integer(key);
  const auto first = value->count() > 0 ? value->integer(0) : std::nullopt;
  if (!first) {
    invalid(key, "integers", value->shown());
    return std::nullopt;
  }
  for (int64_t i = 1; i < value->count(); ++i) {
    const auto other = value->integer(i);
    if (other == first) continue;
    unsupported(key, absl::StrCat("the same value in all layers, ", *first, ","),
                absl::StrCat(other.value_or(-1), " in layer ", i));
    return std::nullopt;
  }
  return first;
}

int64_t GgufFields::uniform(const std::string& key) {
  if (!has(key)) missing(key);
  return maybe_uniform(key).value_or(0);
}

std::optional<double> GgufFields::maybe_number(const std::string& key, double low, double high) {
  const GgufValue* value = file_.find(key);
  if (!value) return std::nullopt;
  const auto number = value->is_array() ? std::nullopt : value->number();
  if (number && *number >= low && *number <= high) return number;
  invalid(key, absl::StrCat("a number in ", low, "..", high), value->shown());
  return std::nullopt;
}

std::optional<bool> GgufFields::maybe_boolean(const std::string& key) {
  const GgufValue* value = file_.find(key);
  if (!value) return std::nullopt;
  const auto boolean = value->boolean();
  if (!boolean) invalid(key, "true or false", value->shown());
  return boolean;
}

std::optional<std::string> GgufFields::maybe_text(const std::string& key) {
  const GgufValue* value = file_.find(key);
  if (!value) return std::nullopt;
  const auto text = value->text();
  if (text) return std::string(*text);
  invalid(key, "a string", value->shown());
  return std::nullopt;
}

std::string GgufFields::text(const std::string& key) {
  if (!has(key)) missing(key);
  return maybe_text(key).value_or("");
}

std::vector<std::string_view> GgufFields::texts(const std::string& key, int64_t most) {
  const GgufValue* value = file_.find(key);
  if (!value) {
    missing(key);
    return {};
  }
  if (value->is_array() && value->count() <= most) {
    if (auto texts = value->texts()) return *std::move(texts);
  }
  invalid(key, absl::StrCat("an array of at most ", most, " strings"), value->shown());
  return {};
}

const GgufValue* GgufFields::maybe_array(const std::string& key, size_t count) {
  const GgufValue* value = file_.find(key);
  if (!value || (value->is_array() && value->count() == static_cast<int64_t>(count))) return value;
  invalid(key, absl::StrCat("an array of ", count), value->shown());
  return nullptr;
}

}  // namespace kascade::convert
