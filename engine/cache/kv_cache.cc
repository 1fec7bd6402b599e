#include "engine/cache/kv_cache.h"

#include <algorithm>

namespace kascade {

int64_t KvCacheShape::int4_block_bytes() const {
  if (!int4_keys) return 0;
  const int64_t words = int4_key_panels(block_size) * int4_key_panel_words(head_dim);
  return int64_t{layers} * kv_heads * words * size_of(DType::kI32);
}

KvCache::KvCache(const KvCacheShape& shape, Backend& backend) : shape_(shape) {
  const int64_t rows = int64_t{shape.blocks} * shape.kv_heads * shape.block_size;
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    keys_.push_back(backend.allocate(shape.dtype, rows, shape.head_dim));
    values_.push_back(backend.allocate(shape.dtype, rows, shape.head_dim));
    if (!shape.int4_keys) continue;
    const int64_t panels = int4_key_panels(shape.block_size);
    int4_keys_.push_back(backend.allocate(DType::kI32, rows / shape.block_size * panels,
                                          int4_key_panel_words(shape.head_dim)));
  }
}

LayerCache KvCache::layer(int32_t index) const {
  return {keys_[index].view(), values_[index].view(), shape_.block_size, shape_.kv_heads,
          int4_keys_.empty() ? Tensor{} : int4_keys_[index].view()};
}

bool KvCache::allocated() const {
  return std::ranges::all_of(keys_, &Buffer::allocated) &&
         std::ranges::all_of(values_, &Buffer::allocated) &&
         std::ranges::all_of(int4_keys_, &Buffer::allocated);
}

}  // namespace kascade
