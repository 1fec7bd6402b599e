#include "tools/convert/torch_source.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/check.h"
#include "engine/model/json.h"
#include "tools/convert/rope_layout.h"

namespace kascade::convert {

int64_t JoinedTensor::rows() const {
  const TorchTensor& part = *parts.front();
  const auto count = static_cast<int64_t>(parts.size());
  return part.shape.size() == 1 ? 1 : part.shape[0] * (side_by_side ? 1 : count);
}

int64_t JoinedTensor::columns() const {
  return parts.front()->shape.back() * (side_by_side ? static_cast<int64_t>(parts.size()) : 1);
}

DType JoinedTensor::dtype() const {
  const auto& dtype = parts.front()->dtype;
  KASCADE_CHECK(dtype.has_value());
  return *dtype;
}

void JoinedTensor::copy_row(int64_t row, std::byte* target) const {
  const int64_t source_row = head_dim > 0 ? neighbouring_row(row, head_dim) : row;
  const int64_t part_columns = parts.front()->shape.back();
  if (!side_by_side) {
    const auto part_rows = rows() / static_cast<int64_t>(parts.size());
    const auto part = static_cast<size_t>(source_row / part_rows);
    return parts[part]->copy_row(source_row % part_rows, 0, part_columns, target);
  }
  for (const TorchTensor* part : parts) {
    part->copy_row(source_row, 0, part_columns, target);
    target += part_columns * size_of(dtype());
  }
}

bool is_same(const JoinedTensor& a, const JoinedTensor& b) {
  if (a.dtype() != b.dtype() || a.rows() != b.rows() || a.columns() != b.columns()) return false;
  std::vector<std::byte> row_of_a(static_cast<size_t>(a.columns() * size_of(a.dtype())));
  std::vector<std::byte> row_of_b(row_of_a.size());
  for (int64_t row = 0; row < a.rows(); ++row) {
    a.copy_row(row, row_of_a.data());
    b.copy_row(row, row_of_b.data());
    if (std::memcmp(row_of_a.data(), row_of_b.data(), row_of_a.size()) != 0) return false;
  }
  return true;
}

absl::Status check_tensor(const std::filesystem::path& file, const std::string& name,
                          const TorchTensor& tensor, const std::vector<int64_t>& shape) {
  const std::string where = absl::StrCat(file.string(), ": tensor ", shown(name), ": ");
  if (tensor.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(where, "expected shape [",
                                                   absl::StrJoin(shape, ", "), "], found [",
                                                   absl::StrJoin(tensor.shape, ", "), "]"));
  }
  if (tensor.dtype) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(where, "only float32, bfloat16 and float16 are read, found ", tensor.type));
}

std::string folder_name(const std::filesystem::path& folder) {
  const std::filesystem::path path = std::filesystem::absolute(folder).lexically_normal();
  return (path.has_filename() ? path.filename() : path.parent_path().filename()).string();
}

void TorchModel::add(const std::string& name, const std::vector<int64_t>& shape,
                     JoinedTensor tensor) {
  tensors.push_back({name, tensor.dtype(), shape});
  joined.push_back(std::move(tensor));
}

absl::Status TorchSource::read(size_t index, std::span<std::byte> target) {
  const JoinedTensor& tensor = model_.joined[index];
  KASCADE_CHECK(static_cast<int64_t>(target.size()) == model_.tensors[index].bytes());
  const auto row_bytes = static_cast<size_t>(tensor.columns() * size_of(tensor.dtype()));
  for (int64_t row = 0; row < tensor.rows(); ++row) {
    tensor.copy_row(row, target.data() + static_cast<size_t>(row) * row_bytes);
  }
  return absl::OkStatus();
}

}  // namespace kascade::convert
