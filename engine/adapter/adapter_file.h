// The folder of an adapter: adapter.json (what it is) and adapter.safetensors (its parameters, f32,
// under the names "layers.<layer>.<tensor>"). Files may be hostile: everything is checked before it
// is used.
#ifndef KASCADE_ENGINE_ADAPTER_ADAPTER_FILE_H_
#define KASCADE_ENGINE_ADAPTER_ADAPTER_FILE_H_

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/adapter/options.h"
#include "engine/adapter/parameters.h"
#include "nlohmann/json.hpp"

namespace kascade {

// The version of the format that this program writes; it reads no other.
inline constexpr int kAdapterFormat = 1;

struct Adapter {
  AdapterShape shape{};
  AdapterOptions options{};
  std::string weights_digest{};     // of the frozen model (Checkpoint::weights_digest)
  nlohmann::json training{};        // how it was trained, for readers; an object
  std::vector<float> parameters{};  // of all layers, one layer behind the other
};

// INVALID_ARGUMENT names the file and the key or tensor: one that is missing, unknown, of another
// type, shape or size, or that holds a value that is not finite. NOT_FOUND if a file is missing.
absl::StatusOr<Adapter> load_adapter(const std::filesystem::path& folder);
// The same of the content of both files; `folder` is for messages.
absl::StatusOr<Adapter> parse_adapter(const std::string& description, const std::string& tensors,
                                      const std::filesystem::path& folder);

// Makes the folder or replaces its files; each file is whole at any time, and adapter.json is
// written last.
absl::Status save_adapter(const Adapter& adapter, const std::filesystem::path& folder);

// The parts of the two files.
nlohmann::ordered_json to_json(const AdapterOptions& options);
absl::StatusOr<AdapterOptions> adapter_options_from(const nlohmann::json& object,
                                                    const std::string& source);
// A safetensors file with one f32 tensor for each of `layers` layers and tensors of a layer.
std::string parameters_file(const std::vector<float>& parameters, const LayerParameters& layer,
                            int32_t layers);
absl::StatusOr<std::vector<float>> parameters_from(const std::string& content,
                                                   const std::string& source,
                                                   const LayerParameters& layer, int32_t layers);

}  // namespace kascade

#endif  // KASCADE_ENGINE_ADAPTER_ADAPTER_FILE_H_
