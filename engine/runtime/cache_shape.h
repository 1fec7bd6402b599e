// The size of the KV cache of an engine.
#ifndef KASCADE_ENGINE_RUNTIME_CACHE_SHAPE_H_
#define KASCADE_ENGINE_RUNTIME_CACHE_SHAPE_H_

#include "absl/status/statusor.h"
#include "engine/cache/kv_cache.h"
#include "engine/engine.h"
#include "engine/model/config.h"

namespace kascade {

// As many blocks as options.kv_memory_bytes hold, or the memory that is available now.
// FAILED_PRECONDITION: too few for the first chunk of a sequence.
absl::StatusOr<KvCacheShape> cache_shape(const EngineOptions& options, const ModelConfig& config,
                                         DType dtype);

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_CACHE_SHAPE_H_
