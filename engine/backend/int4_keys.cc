#include "engine/backend/int4_keys.h"

#include <cmath>
#include <vector>

#include "engine/backend/quantization.h"

namespace kascade {
namespace {

std::vector<float> rotated(const float* values, int64_t size) {
  std::vector<float> result(values, values + size);
  rotate_inputs(result.data(), size);
  return result;
}

}  // namespace

void write_int4_key(const float* key, int64_t head_dim, int32_t slot, int32_t* panel) {
  const std::vector<float> values = rotated(key, head_dim);
  const float largest = largest_magnitude(values.data(), head_dim);
  const bool usable = largest >= kNegligible;
  const uint16_t scale =
      to_bf16(usable || std::isnan(largest) ? largest / kInt4KeyLargestLevel : 0);
  const float inverse = usable ? 1.0f / from_bf16(scale) : 0;
  const auto level_of = [&](int64_t component) {
    if (!usable || component >= head_dim) return kInt4KeyOffset;
    return static_cast<int>(std::nearbyint(values[static_cast<size_t>(component)] * inverse)) +
           kInt4KeyOffset;
  };
  const int64_t words = int4_key_level_words(head_dim);
  for (int64_t first = 0; first < words / kInt4KeyPanel; ++first) {
    uint32_t word = 0;
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t component = first * kInt4KeyComponents + i;
      const int byte = level_of(component) | level_of(component + 4) << 4;
      word |= static_cast<uint32_t>(byte) << (8 * i);
    }
    panel[first * kInt4KeyPanel + slot] = static_cast<int32_t>(word);
  }
  reinterpret_cast<uint16_t*>(panel + words)[slot] = scale;
}

float read_int4_key(const int32_t* panel, int64_t head_dim, int32_t slot, int8_t* levels) {
  for (int64_t component = 0; component < head_dim; ++component) {
    const auto word =
        static_cast<uint32_t>(panel[component / kInt4KeyComponents * kInt4KeyPanel + slot]);
    const auto byte = word >> (8 * (component % 4));
    const auto half = component % kInt4KeyComponents < 4 ? byte & 15 : (byte >> 4) & 15;
    levels[component] = static_cast<int8_t>(static_cast<int32_t>(half) - kInt4KeyOffset);
  }
  const auto* scales = reinterpret_cast<const uint16_t*>(panel + int4_key_level_words(head_dim));
  return from_bf16(scales[slot]);
}

float quantize_query(const float* query, int64_t head_dim, int8_t* levels) {
  const std::vector<float> values = rotated(query, head_dim);
  return quantize_int8(values.data(), head_dim, levels);
}

}  // namespace kascade
