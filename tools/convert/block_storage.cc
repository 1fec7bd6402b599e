#include "tools/convert/block_storage.h"

#include <algorithm>

#include "tools/convert/output_plan.h"

namespace kascade::convert {
namespace {

void count(DType dtype, std::vector<BlockStorage::Count>& counts) {
  const auto found = std::ranges::find(counts, dtype, &BlockStorage::Count::dtype);
  if (found == counts.end()) {
    counts.push_back({dtype, 1});
  } else {
    ++found->matrices;
  }
}

}  // namespace

std::optional<BlockStorage> block_storage(const Source& source, const ConvertOptions& options) {
  BlockStorage storage;
  int64_t matrix_bytes = 0, weights = 0;
  bool any_blocks = false;
  for (const SourceTensor& tensor : source.tensors()) {
    SourceTensor written = tensor;
    written.dtype = output_dtype(source, tensor, options);
    storage.source_bytes += tensor.bytes();
    storage.output_bytes += written.bytes();
    if (tensor.shape.size() != 2) continue;
    any_blocks |= has_blocks(tensor.dtype);
    matrix_bytes += tensor.bytes();
    weights += tensor.elements();
    count(tensor.dtype, storage.matrices);
  }
  if (!any_blocks) return std::nullopt;
  std::ranges::stable_sort(storage.matrices, std::ranges::greater{},
                           &BlockStorage::Count::matrices);
  storage.bits_per_weight = 8 * static_cast<double>(matrix_bytes) / static_cast<double>(weights);
  return storage;
}

}  // namespace kascade::convert
