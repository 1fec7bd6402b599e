// Random weights in the block formats of GGUF.
#ifndef KASCADE_TESTS_SUPPORT_RANDOM_BLOCKS_H_
#define KASCADE_TESTS_SUPPORT_RANDOM_BLOCKS_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>

#include "engine/backend/block_formats.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/tensor.h"

namespace kascade::testing {

constexpr DType kAllBlockDTypes[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0,
                                     DType::kQ5_1, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

inline void put_half(float value, std::byte* to) {
  const auto bits = std::bit_cast<uint16_t>(static_cast<_Float16>(value));
  std::memcpy(to, &bits, sizeof(bits));
}

// Every level and multiple is random; scales and minima are normal numbers times `size`, so that
// they have both signs.
inline HostBuffer random_blocks(DType dtype, int64_t rows, int64_t cols, std::mt19937& random,
                                float size = 0.05f) {
  HostBuffer buffer(dtype, rows, cols);
  std::normal_distribution<float> normal(0, size);
  const BlockFormat format = block_format_of(dtype);
  const BlockSize block = block_size_of(dtype);
  auto* bytes = static_cast<std::byte*>(buffer.view().data);
  for (int64_t i = 0; i < buffer.bytes(); ++i) bytes[i] = std::byte(random() & 255u);
  const float scale = format.multiples ? 1.0f / 64 : 1.0f;
  for (int64_t i = 0; i < buffer.bytes(); i += block.bytes) {
    put_half(scale * normal(random), bytes + i + (dtype == DType::kQ6_K ? 208 : 0));
    if (format.minima) put_half(scale * 8 * normal(random), bytes + i + 2);
  }
  return buffer;
}

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_RANDOM_BLOCKS_H_
