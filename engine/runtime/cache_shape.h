// The size of the KV cache of an engine.
#ifndef KASCADE_ENGINE_RUNTIME_CACHE_SHAPE_H_
#define KASCADE_ENGINE_RUNTIME_CACHE_SHAPE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/cache/kv_cache.h"
#include "engine/engine.h"
#include "engine/model/config.h"
#include "engine/runtime/free_memory.h"

namespace kascade {

// What is left for the KV cache beside weights and requests.
struct MemoryLeft {
  int64_t bytes = 0;        // ≥ 0
  std::string reckoning{};  // how that comes about, for messages
};
// Of the memory that was free once the weights were packed. Pages of mapped files count as free,
// but those with weights are needed: `mapped_weight_bytes`. Requests may take
// `request_memory_bytes`; since that is a limit and not a need, at most half of what the weights
// leave is set aside for it.
MemoryLeft memory_left(const FreeMemory& free, int64_t mapped_weight_bytes,
                       int64_t request_memory_bytes);

// As many blocks as options.kv_memory_bytes hold. 0 stands for what max_sequences full contexts
// need, but at most half of what is left; the other half is for workspace and other processes.
// FAILED_PRECONDITION: more than is left, or too few for the first chunk of a sequence.
absl::StatusOr<KvCacheShape> cache_shape(const EngineOptions& options, const ModelConfig& config,
                                         DType dtype, const MemoryLeft& left);

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_CACHE_SHAPE_H_
