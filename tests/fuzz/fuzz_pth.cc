// A whole PyTorch checkpoint: archive, pickle and storages. What is accepted is read to the last
// element, so that the sanitizer sees a view that leaves the file.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "tools/convert/torch_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view content(reinterpret_cast<const char*>(data), size);
  const auto tensors = kascade::convert::read_torch(content, "fuzz");
  if (!tensors.ok()) return 0;
  for (const auto& [name, tensor] : *tensors) {
    if (!tensor.dtype || tensor.elements == 0) continue;
    if (tensor.elements > static_cast<int64_t>(size)) __builtin_trap();
    if (tensor.shape.empty() || tensor.shape.size() > 2) continue;
    const int64_t rows = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
    const int64_t cols = tensor.shape.back();
    std::vector<std::byte> row(static_cast<size_t>(cols * size_of(*tensor.dtype)));
    for (int64_t i = 0; i < rows; ++i) tensor.copy_row(i, 0, cols, row.data());
  }
  return 0;
}
