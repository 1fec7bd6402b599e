// Reads the files of a Hugging Face folder other than its weights.
#ifndef KASCADE_TOOLS_CONVERT_HUGGING_FACE_FILES_H_
#define KASCADE_TOOLS_CONVERT_HUGGING_FACE_FILES_H_

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/convert/source.h"

namespace kascade::convert {

// Returns those of tokenizer.json, tokenizer.model, tokenizer_config.json, special_tokens_map.json,
// chat_template.jinja and generation_config.json that exist.
std::vector<SideFile> hugging_face_side_files(const std::filesystem::path& folder);

// Checks that tokenizer_config.json and special_tokens_map.json, which are passed on as they are,
// are JSON objects if they are there. INVALID_ARGUMENT names the file.
absl::Status check_side_files(const std::filesystem::path& folder);

// Returns the content of config.json, with the rope factor of `options` if it is set.
absl::StatusOr<std::string> hugging_face_config(const std::filesystem::path& folder,
                                                const SourceOptions& options);

// Parses the configuration, including the end tokens of generation_config.json.
absl::StatusOr<ModelConfig> parse_hugging_face_config(const std::filesystem::path& folder,
                                                      const std::string& config_json);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_HUGGING_FACE_FILES_H_
