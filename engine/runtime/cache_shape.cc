#include "engine/runtime/cache_shape.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kascade {

MemoryLeft memory_left(const FreeMemory& free, int64_t mapped_weight_bytes,
                       int64_t request_memory_bytes) {
  const int64_t beside_weights = std::max<int64_t>(0, free.bytes - mapped_weight_bytes);
  const int64_t for_requests = std::min(request_memory_bytes, beside_weights / 2);
  MemoryLeft left{beside_weights - for_requests,
                  absl::StrCat(free.bytes, " that ", free.source, " leaves, less ",
                               mapped_weight_bytes, " for weights in mapped files")};
  if (for_requests == 0) return left;
  absl::StrAppend(&left.reckoning, ", less ", for_requests, " for requests");
  if (for_requests < request_memory_bytes) {
    absl::StrAppend(&left.reckoning, " (half of the rest; request_memory_bytes is ",
                    request_memory_bytes, ")");
  }
  return left;
}

absl::StatusOr<KvCacheShape> cache_shape(const EngineOptions& options, const ModelConfig& config,
                                         DType dtype, const MemoryLeft& left) {
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
    bytes = std::min(left.bytes / 2, options.max_sequences * context_blocks * block_bytes);
  }
  if (bytes > left.bytes) {
    return absl::FailedPreconditionError(absl::StrCat("kv_memory_bytes: ", bytes,
                                                      " bytes are more than the ", left.bytes,
                                                      " that are left (", left.reckoning, ")"));
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
