// The memory of the paged KV cache in a backend: one pool of keys and one of values per layer.
// BlockAllocator hands out their blocks. In host memory a pool takes physical pages only where it
// was written.
#ifndef KASCADE_ENGINE_CACHE_KV_CACHE_H_
#define KASCADE_ENGINE_CACHE_KV_CACHE_H_

#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/layer_cache.h"
#include "engine/backend/tensor.h"

namespace kascade {

struct KvCacheShape {
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t blocks = 0;
  int32_t block_size = 0;  // tokens
  DType dtype = DType::kF32;
  bool int4_keys = false;  // whether there is also a 4-bit copy of the keys (int4_keys.h)

  // Bytes of one head's key or value at one position.
  int64_t row_bytes() const { return row_elements(dtype, head_dim) * size_of(dtype); }
  // Keys and values of a token in all layers.
  int64_t bytes_per_token() const { return int64_t{2} * layers * kv_heads * row_bytes(); }
  // Memory of the 4-bit copies of a block in all layers; 0 if there are none.
  int64_t int4_block_bytes() const;
  // Memory of a block in all layers.
  int64_t block_bytes() const { return block_size * bytes_per_token() + int4_block_bytes(); }
};

class KvCache {
 public:
  KvCache(const KvCacheShape& shape, Backend& backend);
  const KvCacheShape& shape() const { return shape_; }
  LayerCache layer(int32_t index) const;
  bool allocated() const;  // false: out of memory

 private:
  KvCacheShape shape_;
  std::vector<Buffer> keys_;       // [layers], each [blocks · kv_heads · block_size, head_dim]
  std::vector<Buffer> values_;     // likewise
  std::vector<Buffer> int4_keys_;  // [layers], each [blocks · kv_heads · panels, panel]; or empty
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_CACHE_KV_CACHE_H_
