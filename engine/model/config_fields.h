// Type-checked access to the fields of one object of config.json. The first error is kept, and the
// value read becomes a harmless one, so that callers check for errors once at the end.
#ifndef KASCADE_ENGINE_MODEL_CONFIG_FIELDS_H_
#define KASCADE_ENGINE_MODEL_CONFIG_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "engine/model/json.h"

namespace kascade {

class ConfigFields {
 public:
  // `where` begins the messages of errors. `object` and `first_error` must outlive the fields.
  ConfigFields(const nlohmann::json& object, std::string where, absl::Status& first_error);

  // Null if the field is absent or null.
  const nlohmann::json* find(const std::string& key) const;
  const nlohmann::json& object() const { return object_; }

  // INVALID_ARGUMENT "key: expected …, found …".
  void invalid(const std::string& key, const std::string& expected,
               const nlohmann::json& found) const;
  // UNIMPLEMENTED "key: only … is supported, found …".
  void unsupported(const std::string& key, const std::string& expected,
                   const nlohmann::json& found) const;
  void missing(const std::string& key) const;

  int32_t integer(const std::string& key, int64_t low, int64_t high) const;
  int32_t integer_or(const std::string& key, int64_t low, int64_t high, int32_t fallback) const;
  int32_t integer(const std::string& key, const nlohmann::json& value, int64_t low,
                  int64_t high) const;

  double number(const std::string& key, double low, double high) const;
  std::optional<double> maybe_number(const std::string& key, double low, double high) const;

  bool boolean_or(const std::string& key, bool fallback) const;
  std::optional<std::string> maybe_text(const std::string& key) const;
  // The fields of `value`, which is the object under `key`.
  ConfigFields inside(const std::string& key, const nlohmann::json& value) const;

 private:
  const nlohmann::json* required(const std::string& key) const;
  double number(const std::string& key, const nlohmann::json& value, double low, double high) const;
  void fail(absl::StatusCode code, const std::string& key, const std::string& fault) const;

  const nlohmann::json& object_;
  std::string where_;
  absl::Status& first_error_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_CONFIG_FIELDS_H_
