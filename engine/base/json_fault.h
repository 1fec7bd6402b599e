// Says what is wrong with a text that a JSON parser has refused. A template, so that this room does
// not depend on a JSON library itself.
#ifndef KASCADE_ENGINE_BASE_JSON_FAULT_H_
#define KASCADE_ENGINE_BASE_JSON_FAULT_H_

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace kascade {

// Reads a faulty text up to its fault.
template <typename Json>
class JsonFaultFinder final : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(typename Json::number_integer_t) override { return true; }
  bool number_unsigned(typename Json::number_unsigned_t) override { return true; }
  bool number_float(typename Json::number_float_t, const std::string&) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(typename Json::binary_t&) override { return true; }
  bool start_object(std::size_t) override { return true; }
  bool end_object() override { return true; }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool key(std::string& name) override {
    key_ = name;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    constexpr int kNumberOverflow = 406;  // as nlohmann-json documents its exceptions
    fault_ = absl::StrCat(error.id == kNumberOverflow ? "has a number beyond any double"
                                                      : "is not valid JSON in UTF-8",
                          " at byte ", position);
    return false;
  }

  std::string fault() const {
    if (key_.empty()) return fault_;
    constexpr size_t kMaxKeyBytes = 64;
    const Json shown = key_.substr(0, kMaxKeyBytes);
    return absl::StrCat(fault_, ", key ",
                        shown.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace));
  }

 private:
  std::string key_;
  std::string fault_ = "is not valid JSON";
};

// "is not valid JSON in UTF-8 at byte 17, key \"name\"": the last key before the fault.
template <typename Json>
std::string json_fault(std::string_view text) {
  JsonFaultFinder<Json> finder;
  Json::sax_parse(text, &finder);
  return finder.fault();
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_BASE_JSON_FAULT_H_
