// Writes the config.json of a converted model.
#ifndef KASCADE_TOOLS_CONVERT_CONFIG_JSON_H_
#define KASCADE_TOOLS_CONVERT_CONFIG_JSON_H_

#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/tensor.h"
#include "engine/model/config.h"

namespace kascade::convert {

// Writes `config` in the form that Hugging Face has for its model family. parse_config
// (engine/model/config.h) reads the same model back.
std::string to_config_json(const ModelConfig& config, DType dtype);

// Returns `config_json` with its dtype entry replaced and everything else unchanged.
absl::StatusOr<std::string> with_dtype(const std::string& config_json, DType dtype);

// Returns `config_json` with the factor of its rope scaling replaced. INVALID_ARGUMENT if it
// has no such scaling.
absl::StatusOr<std::string> with_rope_factor(const std::string& config_json, double factor);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_CONFIG_JSON_H_
