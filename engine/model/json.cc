#include "engine/model/json.h"

#include <limits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kascade {
namespace {

using nlohmann::json;

// Builds the document from the parser's events. The library's own builder keeps the last of
// duplicate keys and has no limits. Returning false from an event stops the parser at once.
class Builder final : public nlohmann::json_sax<json> {
 public:
  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return fail("binary value"); }
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    last_key_ = name;
    const auto [slot, is_new] = open_.back()->get_ref<json::object_t&>().try_emplace(name);
    slot_ = &slot->second;
    return is_new || fail("the same key twice");
  }

  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    return fail(absl::StrCat("not valid JSON at byte ", position));
  }

  json take() { return std::move(root_); }
  std::string error() const {
    return last_key_.empty() ? error_ : absl::StrCat(error_, ", key ", shown(last_key_));
  }

 private:
  bool put(json value) {
    if (++values_ > kMaxJsonValues)
      return fail(absl::StrCat("more than ", kMaxJsonValues, " values"));
    place(std::move(value));
    return true;
  }

  json* place(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      auto& array = open_.back()->get_ref<json::array_t&>();
      array.push_back(std::move(value));
      return &array.back();
    }
    *slot_ = std::move(value);
    return slot_;
  }

  bool open(json empty) {
    if (open_.size() >= kMaxJsonDepth) {
      return fail(absl::StrCat("nested deeper than ", kMaxJsonDepth));
    }
    if (++values_ > kMaxJsonValues)
      return fail(absl::StrCat("more than ", kMaxJsonValues, " values"));
    open_.push_back(place(std::move(empty)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  bool fail(std::string error) {
    if (error_.empty()) error_ = std::move(error);
    return false;
  }

  json root_;
  std::vector<json*> open_;  // from the root to the innermost open object or array
  json* slot_ = nullptr;     // destination of the last key's value
  int64_t values_ = 0;
  std::string last_key_;
  std::string error_;
};

}  // namespace

absl::StatusOr<json> parse_json_object(std::string_view text, const std::string& source) {
  Builder builder;
  if (!json::sax_parse(text, &builder)) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", builder.error()));
  }
  json document = builder.take();
  if (!document.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": expected a JSON object, found ", shown(document)));
  }
  return absl::StatusOr<json>(absl::in_place, std::move(document));
}

std::string shown(const json& value) {
  constexpr size_t kLongest = 80;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

std::optional<int64_t> as_integer(const json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return std::nullopt;
  }
  return value.get<int64_t>();
}

}  // namespace kascade
