#ifndef KASCADE_ENGINE_BACKEND_LAYER_CACHE_H_
#define KASCADE_ENGINE_BACKEND_LAYER_CACHE_H_

#include <cstdint>

#include "engine/backend/int4_keys.h"
#include "engine/backend/tensor.h"

namespace kascade {

// One layer of the paged KV cache, as the operations take it. Row (block · kv_heads + g) ·
// block_size + offset of `keys` and `values` is the [head_dim] vector of KV head g at that slot.
struct LayerCache {
  Tensor keys;
  Tensor values;
  int32_t block_size = 0;
  int32_t kv_heads = 0;
  // The 4-bit copy of the keys (int4_keys.h), or nothing. Row (block · kv_heads + g) · (panels of a
  // block) + offset / 16 is a panel, in words of 4 bytes.
  Tensor int4_keys{};

  bool has_int4_keys() const { return int4_keys.data != nullptr; }
  int32_t* int4_panel(int32_t block, int32_t kv_head, int32_t offset) const {
    const int64_t head = static_cast<int64_t>(block) * kv_heads + kv_head;
    return int4_keys.row<int32_t>(head * int4_key_panels(block_size) + offset / kInt4KeyPanel);
  }
  int64_t row(int32_t block, int32_t kv_head, int32_t offset) const {
    return (static_cast<int64_t>(block) * kv_heads + kv_head) * block_size + offset;
  }
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_LAYER_CACHE_H_
