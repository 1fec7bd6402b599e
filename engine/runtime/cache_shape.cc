#include "engine/runtime/cache_shape.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kascade {
namespace {

// The smaller of the memory that is available now and the container's limit, in bytes.
int64_t available_memory() {
  int64_t available = int64_t{4} << 30;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key; meminfo >> key;) {
    int64_t kib = 0;
    std::string unit;
    meminfo >> kib >> unit;
    if (key == "MemAvailable:") available = kib * 1024;
  }
  std::ifstream limit("/sys/fs/cgroup/memory.max");
  if (int64_t bytes = 0; limit >> bytes) available = std::min(available, bytes);
  return available;
}

}  // namespace

absl::StatusOr<KvCacheShape> cache_shape(const EngineOptions& options, const ModelConfig& config,
                                         DType dtype) {
  KvCacheShape shape{.layers = config.layers,
                     .kv_heads = config.kv_heads,
                     .head_dim = config.head_dim,
                     .blocks = 0,
                     .block_size = options.block_size,
                     .dtype = dtype,
                     .int4_keys = options.int4_keys};
  const int64_t block_bytes = shape.block_bytes();
  const int64_t context_blocks = (config.context + shape.block_size - 1) / shape.block_size;
  int64_t bytes = options.kv_memory_bytes;
  if (bytes == 0) {
    bytes = std::min(available_memory() / 4, options.max_sequences * context_blocks * block_bytes);
  }
  const int64_t least = (options.max_batch_tokens + shape.block_size - 1) / shape.block_size;
  const int64_t blocks = std::min(bytes / block_bytes, int64_t{1} << 24);
  if (blocks < std::min(least, context_blocks)) {
    return absl::FailedPreconditionError(
        absl::StrCat("kv_memory_bytes: ", bytes, " bytes hold ", std::max<int64_t>(blocks, 0),
                     " blocks of the KV cache; at least ", std::min(least, context_blocks), " (",
                     std::min(least, context_blocks) * block_bytes, " bytes) are needed"));
  }
  shape.blocks = static_cast<int32_t>(blocks);
  return shape;
}

}  // namespace kascade
