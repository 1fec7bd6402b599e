// kascade-convert --pack: packs the weights of a model folder ahead of the server's first start.
#ifndef KASCADE_TOOLS_CONVERT_PACK_COMMAND_H_
#define KASCADE_TOOLS_CONVERT_PACK_COMMAND_H_

#include <CLI/CLI.hpp>
#include <atomic>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/tensor.h"

namespace kascade::convert {

struct PackArguments {
  std::string formats{};   // a list such as "int8,int4"; empty: nothing is packed
  std::string existing{};  // the model folder; empty: that of the conversion
};

// Adds --pack and --existing.
void add_pack_options(CLI::App& app, PackArguments& arguments);

// Reads a list such as "int8,int4". INVALID_ARGUMENT for a name that is not bf16, int8, int4 or
// native, and for one that occurs twice; UNAVAILABLE for a format that this machine cannot compute
// with.
absl::StatusOr<std::vector<WeightFormat>> formats_to_pack(const std::string& list);

// Writes DIR/packed/FORMAT.packed for each format and prints a line for each. CANCELLED when
// interrupted; files of formats that were complete before stay.
absl::Status pack_weights(const std::filesystem::path& folder,
                          const std::vector<WeightFormat>& formats,
                          const std::atomic<bool>& interrupted);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_PACK_COMMAND_H_
