// kascade-convert --adapter-of: turns an adapter of the Python project into one for kascade-train.
#ifndef KASCADE_TOOLS_CONVERT_ADAPTER_COMMAND_H_
#define KASCADE_TOOLS_CONVERT_ADAPTER_COMMAND_H_

#include <filesystem>

#include "absl/status/status.h"

namespace kascade::convert {

// Reads the adapter in `source` (adapter_import.h), which was trained on the model in folder
// `model`, writes adapter.safetensors and adapter.json to `destination`, and prints what it is and
// what was decided. ALREADY_EXISTS if the destination exists, unless `force` is set and it holds an
// adapter.json.
absl::Status convert_adapter(const std::filesystem::path& source,
                             const std::filesystem::path& model,
                             const std::filesystem::path& destination, bool force);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_ADAPTER_COMMAND_H_
