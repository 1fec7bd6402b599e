// The index of a checkpoint that is spread over several files.
#ifndef KASCADE_ENGINE_MODEL_SHARD_INDEX_H_
#define KASCADE_ENGINE_MODEL_SHARD_INDEX_H_

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace kascade {

// File name → names of the tensors in it, from the index's weight_map. Only names of files beside
// the index that end with `suffix` (".safetensors") are accepted; INVALID_ARGUMENT otherwise,
// NOT_FOUND if there is no index.
absl::StatusOr<std::map<std::string, std::set<std::string>>> read_shard_index(
    const std::filesystem::path& index, std::string_view suffix);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_SHARD_INDEX_H_
