// Read-only, memory-mapped safetensors: a single file or a folder of shards with an index. Files
// may be hostile: every offset, size and shape is checked before a tensor is returned. The files
// must not be shortened while they are mapped.
#ifndef KASCADE_ENGINE_MODEL_SAFETENSORS_H_
#define KASCADE_ENGINE_MODEL_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/tensor.h"
#include "engine/model/file.h"

namespace kascade {

struct StoredTensor {
  std::string dtype{};              // as the file spells it: "F32", "BF16", "F16", …
  std::vector<int64_t> shape{};     // row-major
  const std::byte* data = nullptr;  // aligned to the dtype, if a Safetensors gave it
  int64_t bytes = 0;
};

// The DType for "F32", "BF16" or "F16"; unset for any other name.
std::optional<DType> float_type(std::string_view stored);
// The same, and the dtypes with blocks by their names ("Q4_K"), which are an extension of ours to
// the format: a tensor of shape [rows, cols] consists of rows of blocks.
std::optional<DType> weight_type(std::string_view stored);
// How a file spells the dtype of a float_type() or a dtype with blocks.
std::string stored_name(DType dtype);

// Parses a file whose bytes are `content`. The tensors point into it, at whatever addresses the
// file puts them; `name` is for error messages.
absl::StatusOr<std::map<std::string, StoredTensor>> parse_safetensors(const std::string& name,
                                                                      std::string_view content);

class Safetensors {
 public:
  // Opens model.safetensors in the folder or, if absent, the shards of
  // model.safetensors.index.json. An index that names a missing tensor or shard, or a path outside
  // the folder, is refused. Tensors that do not lie at a multiple of their dtype's size are copied
  // to memory. Errors name the file and the tensor.
  static absl::StatusOr<std::unique_ptr<Safetensors>> open_folder(
      const std::filesystem::path& directory);
  static absl::StatusOr<std::unique_ptr<Safetensors>> open_file(const std::filesystem::path& file);

  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  const std::vector<std::filesystem::path>& paths() const { return paths_; }
  int64_t mapped_bytes() const { return mapped_bytes_; }

  // Releases the physical memory that holds these bytes of the files; they are read from disk again
  // when they are next used. Has no effect on bytes outside the files.
  void release(const void* begin, int64_t bytes) const;

 private:
  Safetensors() = default;
  absl::Status add_shards(const std::filesystem::path& index);
  // If `expected` is not null, the file must hold exactly the tensors of these names.
  absl::Status add_file(const std::filesystem::path& file, const std::set<std::string>* expected);
  void align(StoredTensor& tensor);

  std::vector<MappedFile> mappings_;
  std::vector<std::filesystem::path> paths_;          // paths of the mappings
  std::vector<std::unique_ptr<std::byte[]>> copies_;  // of tensors that are not aligned in the file
  std::map<std::string, StoredTensor> tensors_;
  int64_t mapped_bytes_ = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_SAFETENSORS_H_
