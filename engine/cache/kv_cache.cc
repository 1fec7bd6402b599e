#include "engine/cache/kv_cache.h"

namespace kascade {

KvCache::KvCache(const KvCacheShape& shape) : shape_(shape) {
  const int64_t rows = int64_t{shape.blocks} * shape.kv_heads * shape.block_size;
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    keys_.emplace_back(shape.dtype, rows, shape.head_dim);
    values_.emplace_back(shape.dtype, rows, shape.head_dim);
  }
}

LayerCache KvCache::layer(int32_t index) const {
  return {keys_[index].view(), values_[index].view(), shape_.block_size, shape_.kv_heads};
}

bool KvCache::allocated() const {
  for (size_t layer = 0; layer < keys_.size(); ++layer) {
    if (keys_[layer].view().data == nullptr || values_[layer].view().data == nullptr) return false;
  }
  return true;
}

}  // namespace kascade
