// Reads sparse adapters of the Python project that this method was first tried in: a folder with
// sparse_adapters.pt, which torch.save wrote, and training_config.json. Three revisions of it name
// their tensors differently; all are read (docs/adapters.md, "Adapters of the Python project").
#ifndef KASCADE_TOOLS_CONVERT_ADAPTER_IMPORT_H_
#define KASCADE_TOOLS_CONVERT_ADAPTER_IMPORT_H_

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/adapter/adapter_file.h"

namespace kascade::convert {

struct ImportedAdapter {
  Adapter adapter{};  // without weights_digest, which is of the model
  // What the files leave open, or what the Python code did otherwise than they say; sentences.
  std::vector<std::string> decisions{};
};

// Whether the folder has a file sparse_adapters.pt.
bool has_torch_adapter(const std::filesystem::path& folder);

// `shape` is that of the model on which the adapter was trained. NOT_FOUND if a file is missing.
// INVALID_ARGUMENT or UNIMPLEMENTED name the file and the key or tensor: one that is missing,
// unknown, of another type or shape, or that holds a value that is not finite.
absl::StatusOr<ImportedAdapter> import_torch_adapter(const std::filesystem::path& folder,
                                                     const AdapterShape& shape);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_ADAPTER_IMPORT_H_
