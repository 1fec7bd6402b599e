// JSON that may be hostile: parsed without exceptions, with bounded nesting and size, and refused
// if it says a thing twice. Used by the readers of this folder.
#ifndef KASCADE_ENGINE_MODEL_JSON_H_
#define KASCADE_ENGINE_MODEL_JSON_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace kascade {

constexpr int kMaxJsonDepth = 32;
constexpr int64_t kMaxJsonValues = 1 << 20;  // bounds memory: a value takes up to 100 bytes

// The object that `text` holds. Errors are INVALID_ARGUMENT, begin with `source` and name the last
// key before the fault.
absl::StatusOr<nlohmann::json> parse_json_object(std::string_view text, const std::string& source);

// `value` for an error message: ASCII on one line, cut to a readable length.
std::string shown(const nlohmann::json& value);

// Unset unless `value` is written as an integer and fits.
std::optional<int64_t> as_integer(const nlohmann::json& value);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_JSON_H_
