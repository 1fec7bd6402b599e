#include "engine/tokenizer/json_fields.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/json_fault.h"

namespace kascade::bpe {
namespace {

// Limit for the nesting of JSON; a tokenizer.json nests about six levels deep.
constexpr int kMaxDepth = 64;

// The nesting is checked before parsing, because building and freeing a deeply nested value costs
// stack or time.
bool is_nested_too_deeply(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

const Json& empty_value(Json::value_t type) {
  static const Json kObject = Json::object();
  static const Json kArray = Json::array();
  static const Json kString = "";
  if (type == Json::value_t::object) return kObject;
  return type == Json::value_t::array ? kArray : kString;
}

std::string describe(const Json& value) {
  constexpr size_t kShown = 60;
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  std::string shown = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (shown.size() > kShown) shown = shown.substr(0, kShown) + "...";
  return shown;
}

}  // namespace

absl::StatusOr<Json> parse_json(std::string_view text) {
  if (text.empty()) return absl::InvalidArgumentError("is empty");
  if (is_nested_too_deeply(text)) {
    return absl::InvalidArgumentError(absl::StrCat("nests deeper than ", kMaxDepth, " levels"));
  }
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_discarded()) return json;
  return absl::InvalidArgumentError(json_fault<Json>(text));
}

absl::Status malformed(const std::string& path, const Json& found, const std::string& expected) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": found ", describe(found), ", expected ", expected));
}

absl::Status unsupported(const std::string& path, const Json& found, const std::string& supported) {
  return absl::UnimplementedError(
      absl::StrCat(path, ": found ", describe(found), ", supported: ", supported));
}

bool is_natural(const Json& value) {
  return value.is_number_unsigned() || (value.is_number_integer() && value.get<int64_t>() >= 0);
}

ObjectReader::ObjectReader(const Json& value, std::string path)
    : object_(&value), path_(std::move(path)) {
  if (value.is_object()) return;
  fail(malformed(path_, value, "an object"));
  object_ = &empty_value(Json::value_t::object);
}

std::string ObjectReader::path_of(const std::string& name) const {
  return path_.empty() ? name : absl::StrCat(path_, ".", name);
}

const Json* ObjectReader::find(const std::string& name) {
  known_.insert(name);
  const auto found = object_->find(name);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

const Json& ObjectReader::required(const std::string& name, Json::value_t type,
                                   const char* expected) {
  const Json* value = find(name);
  if (value && value->type() == type) return *value;
  fail(malformed(path_of(name), value ? *value : Json(), expected));
  return empty_value(type);
}

bool ObjectReader::boolean(const std::string& name, bool fallback) {
  const Json* value = find(name);
  if (!value) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  fail(malformed(path_of(name), *value, "true or false"));
  return fallback;
}

std::string ObjectReader::text(const std::string& name) {
  return required(name, Json::value_t::string, "a string").get<std::string>();
}

std::optional<std::string> ObjectReader::optional_text(const std::string& name) {
  if (!find(name)) return std::nullopt;
  return text(name);
}

const Json& ObjectReader::array(const std::string& name) {
  return required(name, Json::value_t::array, "an array");
}

const Json& ObjectReader::object(const std::string& name) {
  return required(name, Json::value_t::object, "an object");
}

int32_t ObjectReader::integer(const std::string& name, int32_t limit) {
  const Json* value = find(name);
  if (value && is_natural(*value) && value->get<uint64_t>() < static_cast<uint64_t>(limit)) {
    return value->get<int32_t>();
  }
  fail(malformed(path_of(name), value ? *value : Json(),
                 absl::StrCat("an integer in [0, ", limit, ")")));
  return 0;
}

void ObjectReader::fail(const absl::Status& status) {
  if (status_.ok()) status_ = status;
}

void ObjectReader::require_null(const std::string& name) {
  if (const Json* value = find(name)) fail(unsupported(path_of(name), *value, "null"));
}

absl::Status ObjectReader::finish() {
  for (const auto& [name, value] : object_->items()) {
    if (known_.contains(name)) continue;
    fail(absl::UnimplementedError(absl::StrCat(path_of(name), ": unknown field")));
  }
  return status_;
}

}  // namespace kascade::bpe
