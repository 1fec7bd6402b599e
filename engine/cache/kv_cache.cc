#include "engine/cache/kv_cache.h"

#include <algorithm>

namespace kascade {

KvCache::KvCache(const KvCacheShape& shape, Backend& backend) : shape_(shape) {
  const int64_t rows = int64_t{shape.blocks} * shape.kv_heads * shape.block_size;
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    keys_.push_back(backend.allocate(shape.dtype, rows, shape.head_dim));
    values_.push_back(backend.allocate(shape.dtype, rows, shape.head_dim));
  }
}

LayerCache KvCache::layer(int32_t index) const {
  return {keys_[index].view(), values_[index].view(), shape_.block_size, shape_.kv_heads};
}

bool KvCache::allocated() const {
  return std::ranges::all_of(keys_, &Buffer::allocated) &&
         std::ranges::all_of(values_, &Buffer::allocated);
}

}  // namespace kascade
