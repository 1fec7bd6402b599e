// The 4-bit copy of the cached keys. Layers that choose among all keys can choose by this copy
// (SelectOptions::by_int4_keys), which has about a quarter of the bytes of bf16 keys. Attention
// itself always reads the keys of the cache.
//
// Key and query are rotated along the components of a head (rotate_inputs(),
// engine/backend/quantization.h), which leaves their product as it is.
// Key: component = level · scale with levels in [-7, 7] and one scale per key, largest magnitude /
// 7, rounded to bf16.
// Query: quantised like an int8 channel, with levels in [-127, 127] and one scale.
// The logit of a key is float(Σ level · level) · key scale · (query scale / √D).
// A value that is not finite makes the scale NaN and all levels 0, and so the logit NaN.
//
// The copy of 16 consecutive slots of a cache block is a *panel*. For every 8 components it holds
// 16 words, one per slot. Byte i of a word has component i in the low half and component 4 + i in
// the high half, each as level + 8. After them come the 16 scales. Components from D on are 0.
#ifndef KASCADE_ENGINE_BACKEND_INT4_KEYS_H_
#define KASCADE_ENGINE_BACKEND_INT4_KEYS_H_

#include <cstddef>
#include <cstdint>

#include "engine/backend/tensor.h"

namespace kascade {

constexpr int32_t kInt4KeyPanel = 16;      // slots of a panel
constexpr int32_t kInt4KeyComponents = 8;  // components of a word
constexpr int32_t kInt4KeyOffset = 8;      // added to the levels
constexpr float kInt4KeyLargestLevel = 7;

// Panels of a cache block.
constexpr int32_t int4_key_panels(int32_t block_size) {
  return (block_size + kInt4KeyPanel - 1) / kInt4KeyPanel;
}
// Words of 4 bytes of a panel: levels, then scales.
constexpr int64_t int4_key_level_words(int64_t head_dim) {
  return (head_dim + kInt4KeyComponents - 1) / kInt4KeyComponents * kInt4KeyPanel;
}
constexpr int64_t int4_key_panel_words(int64_t head_dim) {
  return int4_key_level_words(head_dim) + kInt4KeyPanel / 2;
}
// Bytes that are read per key. Blocks whose size is no multiple of a panel take more memory.
constexpr int64_t int4_key_bytes(int64_t head_dim) {
  return int4_key_panel_words(head_dim) * 4 / kInt4KeyPanel;
}

// Writes the copy of a key, f32 [head_dim], to slot `slot` of a panel.
void write_int4_key(const float* key, int64_t head_dim, int32_t slot, int32_t* panel);

// Writes the levels of slot `slot`, without the offset, and returns its scale.
float read_int4_key(const int32_t* panel, int64_t head_dim, int32_t slot, int8_t* levels);

// Writes the levels of a query, f32 [head_dim], and returns its scale.
float quantize_query(const float* query, int64_t head_dim, int8_t* levels);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_INT4_KEYS_H_
