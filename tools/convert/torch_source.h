// Shared by the sources that read PyTorch files: tensors that are joined from one or several files,
// and the Source that reads them.
#ifndef KASCADE_TOOLS_CONVERT_TORCH_SOURCE_H_
#define KASCADE_TOOLS_CONVERT_TORCH_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tools/convert/source.h"
#include "tools/convert/torch_file.h"

namespace kascade::convert {

// A matrix (or a vector as a matrix of one row) that is joined from parts of equal shape and dtype.
struct JoinedTensor {
  std::vector<const TorchTensor*> parts{};
  bool side_by_side = false;  // whether parts are joined along columns; otherwise along rows
  int64_t head_dim = 0;       // if > 0, rows are in Meta's rotary order (rope_layout.h)

  int64_t rows() const;
  int64_t columns() const;
  DType dtype() const;
  // Copies row `row` in Hugging Face's order, which has columns() elements.
  void copy_row(int64_t row, std::byte* target) const;
};

// Whether all elements are bitwise equal.
bool is_same(const JoinedTensor& a, const JoinedTensor& b);

// Checks that `tensor` has this shape of one or two dimensions and a supported dtype. Errors name
// `file`, the tensor's `name`, the expected and the actual value.
absl::Status check_tensor(const std::filesystem::path& file, const std::string& name,
                          const TorchTensor& tensor, const std::vector<int64_t>& shape);

// Returns the last component of the folder's absolute path, whether or not the path ends with a
// slash.
std::string folder_name(const std::filesystem::path& folder);

struct TorchModel {
  std::string family{};
  ModelConfig config{};
  std::string config_json{};
  std::vector<TorchFile> files{};  // the files whose tensors `joined` points to
  std::vector<SourceTensor> tensors{};
  std::vector<JoinedTensor> joined{};  // joined[i] is the source of tensors[i]
  std::vector<SideFile> side_files{};
  std::vector<std::filesystem::path> inputs{};
  std::vector<std::string> decisions{};

  void add(const std::string& name, const std::vector<int64_t>& shape, JoinedTensor tensor);
};

class TorchSource : public Source {
 public:
  explicit TorchSource(TorchModel model) : model_(std::move(model)) {}

  std::string family() const override { return model_.family; }
  const ModelConfig& config() const override { return model_.config; }
  const std::vector<SourceTensor>& tensors() const override { return model_.tensors; }
  absl::Status read(size_t index, std::span<std::byte> target) override;
  std::vector<SideFile> side_files() const override { return model_.side_files; }
  std::vector<std::filesystem::path> inputs() const override { return model_.inputs; }
  std::vector<std::string> decisions() const override { return model_.decisions; }
  std::string config_json() const override { return model_.config_json; }

 private:
  TorchModel model_;
};

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_TORCH_SOURCE_H_
