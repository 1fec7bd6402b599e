// What a source with blocks of quantised weights holds, and how large it becomes.
#ifndef KASCADE_TOOLS_CONVERT_BLOCK_STORAGE_H_
#define KASCADE_TOOLS_CONVERT_BLOCK_STORAGE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "tools/convert/convert.h"
#include "tools/convert/source.h"

namespace kascade::convert {

struct BlockStorage {
  struct Count {
    DType dtype = DType::kF32;
    int32_t matrices = 0;
  };
  std::vector<Count> matrices{};  // of the source, the most frequent dtype first
  double bits_per_weight = 0;     // of the source's matrices
  int64_t source_bytes = 0;       // of all tensors of the source
  int64_t output_bytes = 0;       // of all tensors as `options` have them written
};

// Unset if no matrix of the source has blocks.
std::optional<BlockStorage> block_storage(const Source& source, const ConvertOptions& options);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_BLOCK_STORAGE_H_
