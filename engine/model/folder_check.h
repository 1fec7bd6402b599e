// Tells users who named a wrong or incomplete model what they named, and what to do.
#ifndef KASCADE_ENGINE_MODEL_FOLDER_CHECK_H_
#define KASCADE_ENGINE_MODEL_FOLDER_CHECK_H_

#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/status.h"

namespace kascade {

// Whether `path` is something else than a folder with config.json and safetensors that has been
// downloaded completely: a missing path, a file, an empty folder, a checkpoint that first must be
// converted, a folder of the Hugging Face cache, a pointer of Git LFS. The error names the path,
// says what it is and which command or path to use. What is inside the files is checked by those
// who read them.
absl::Status check_model_folder(const std::filesystem::path& path);

// What both check_model_folder() and kascade-convert say of these; unset if `path` is none of them.
// A pointer of Git LFS stands in place of a large file until the file is fetched.
std::optional<std::string> lfs_pointer_fault(const std::filesystem::path& file);
// The first such pointer among the files of the folder that hold a model.
std::optional<std::string> lfs_pointer_in(const std::filesystem::path& folder);
// A folder "models--OWNER--NAME" of the Hugging Face cache, or the cache itself.
std::optional<std::string> hub_cache_fault(const std::filesystem::path& folder);
// A download that was interrupted leaves files "*.incomplete" behind.
std::optional<std::string> incomplete_download_fault(const std::filesystem::path& folder);

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_FOLDER_CHECK_H_
