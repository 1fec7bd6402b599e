// The index of a checkpoint that is divided into several files.
#ifndef KASCADE_ENGINE_MODEL_SHARD_INDEX_H_
#define KASCADE_ENGINE_MODEL_SHARD_INDEX_H_

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace kascade {

// Reads the index's weight_map as a map from file names to the names of the tensors in each file.
// Every file must lie in the folder of the index and its name must end with `suffix`
// (".safetensors"), and be there; otherwise INVALID_ARGUMENT, which names all that are missing.
// NOT_FOUND if there is no index.
absl::StatusOr<std::map<std::string, std::set<std::string>>> read_shard_index(
    const std::filesystem::path& index, std::string_view suffix);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_SHARD_INDEX_H_
