// Reading rows of weight matrices of any float dtype as f32, for packing.
#ifndef KASCADE_ENGINE_BACKEND_CPU_CHANNELS_H_
#define KASCADE_ENGINE_BACKEND_CPU_CHANNELS_H_

#include <algorithm>
#include <cstdint>
#include <span>

#include "engine/backend/block_formats.h"
#include "engine/backend/tensor.h"

namespace kascade::cpu {

inline int64_t rows_of_all(std::span<const Tensor> parts) {
  int64_t rows = 0;
  for (const Tensor& part : parts) rows += part.rows;
  return rows;
}

// Reads a row of an f32, bf16 or f16 tensor, or of one with blocks.
inline void read_row(Tensor from, int64_t row, float* to) {
  if (has_blocks(from.dtype)) {
    dequantize_row(from.dtype, from.row<std::byte>(row), from.cols, to);
  } else if (from.dtype == DType::kF32) {
    std::copy_n(from.f32(row), from.cols, to);
  } else if (from.dtype == DType::kBF16) {
    std::transform(from.bf16(row), from.bf16(row) + from.cols, to, from_bf16);
  } else {
    const auto* halves = from.row<uint16_t>(row);
    std::transform(halves, halves + from.cols, to, from_f16);
  }
}

// Reads row `index` of the concatenated parts.
inline void read_channel(std::span<const Tensor> parts, int64_t index, float* to) {
  for (const Tensor& part : parts) {
    if (index < part.rows) return read_row(part, index, to);
    index -= part.rows;
  }
}

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_CHANNELS_H_
