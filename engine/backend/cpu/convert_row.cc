#include "engine/backend/cpu/convert_row.h"

#include <cstddef>
#include <cstring>

#include "engine/backend/block_formats.h"
#include "engine/backend/quantization.h"

namespace kascade::cpu {

void convert_row(const Kernels& kernels, Tensor from, int64_t row, Tensor to, int64_t row_to) {
  if (has_blocks(from.dtype)) {
    dequantize_row(from.dtype, from.row<std::byte>(row), from.cols, to.f32(row_to));
  } else if (from.dtype == to.dtype) {
    std::memcpy(to.row<std::byte>(0) + row_to * to.stride * size_of(to.dtype),
                from.row<std::byte>(0) + row * from.stride * size_of(from.dtype),
                static_cast<size_t>(from.cols * size_of(from.dtype)));
  } else if (to.dtype == DType::kInt8) {
    write_int8_row(from.f32(row), to, row_to);
  } else if (from.dtype == DType::kF32) {
    kernels.to_bf16(from.f32(row), from.cols, to.bf16(row_to));
  } else if (from.dtype == DType::kBF16) {
    kernels.from_bf16(from.bf16(row), from.cols, to.f32(row_to));
  } else {
    for (int64_t i = 0; i < from.cols; ++i) {
      const float value = from_f16(from.row<uint16_t>(row)[i]);
      if (to.dtype == DType::kF32) to.f32(row_to)[i] = value;
      if (to.dtype == DType::kBF16) to.bf16(row_to)[i] = to_bf16(value);
    }
  }
}

}  // namespace kascade::cpu
