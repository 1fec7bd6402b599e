// Parsing JSON from untrusted files: without exceptions, with limits on nesting and size, and
// refusing duplicate keys. Used by the readers of this folder.
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

// Parses the object in `text`. Errors are INVALID_ARGUMENT, begin with `source` and name the last
// key before the error.
absl::StatusOr<nlohmann::json> parse_json_object(std::string_view text, const std::string& source);

// Formats `value` for an error message: ASCII on one line, cut to a readable length.
std::string shown(const nlohmann::json& value);

// The value as an integer; unset if it is not written as an integer or does not fit.
std::optional<int64_t> as_integer(const nlohmann::json& value);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_JSON_H_
