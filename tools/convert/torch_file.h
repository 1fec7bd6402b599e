// Reads the tensors of a file that torch.save wrote (.pth, .bin): a ZIP archive of one pickle and
// the raw bytes of the storages. Safe on hostile files: the pickle is read as data (pickle.h), and
// every tensor is checked to be within its storage.
#ifndef KASCADE_TOOLS_CONVERT_TORCH_FILE_H_
#define KASCADE_TOOLS_CONVERT_TORCH_FILE_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/tensor.h"
#include "engine/model/file.h"

namespace kascade::convert {

// A strided view of a storage; several views may share one storage.
struct TorchTensor {
  std::string type{};               // the name in torch: "bfloat16", "float64", "int64"
  std::optional<DType> dtype{};     // set for float32, bfloat16 and float16
  std::vector<int64_t> shape{};     // at most 8 sizes
  std::vector<int64_t> strides{};   // in elements, as many as sizes
  const std::byte* data = nullptr;  // the first element; need not be aligned
  int64_t elements = 0;             // at most the number of elements of the storage

  // Copies elements [begin, begin + count) of a row to `target`, without gaps. Only for tensors of
  // two dimensions, or of one dimension (whose only row is 0), and only if dtype is set.
  void copy_row(int64_t row, int64_t begin, int64_t count, std::byte* target) const;
};

using TorchTensors = std::map<std::string, TorchTensor>;

// Reads the state dictionary in `content`, which must outlive the result. It is the root of the
// pickle, or the entry "model", "state_dict", "module" or "sparse_adapters" of the root. Errors
// start with `file`. UNIMPLEMENTED for the formats before torch 1.6, big-endian files and
// unsupported content of the pickle; INVALID_ARGUMENT for damaged files.
absl::StatusOr<TorchTensors> read_torch(std::string_view content, const std::string& file);

// A memory-mapped checkpoint. The file must not become shorter while it is open.
class TorchFile {
 public:
  static absl::StatusOr<TorchFile> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const TorchTensors& tensors() const { return tensors_; }

 private:
  TorchFile(std::filesystem::path path, MappedFile mapping, TorchTensors tensors)
      : path_(std::move(path)), mapping_(std::move(mapping)), tensors_(std::move(tensors)) {}

  std::filesystem::path path_;
  MappedFile mapping_;
  TorchTensors tensors_;
};

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_TORCH_FILE_H_
