// Reading and writing elements of any dtype as f32.
#ifndef KASCADE_ENGINE_BACKEND_REFERENCE_ELEMENTS_H_
#define KASCADE_ENGINE_BACKEND_REFERENCE_ELEMENTS_H_

#include <cstdint>
#include <cstring>

#include "engine/backend/quantization.h"
#include "engine/backend/tensor.h"

namespace kascade::reference {

inline float load_level(const int8_t* levels, int64_t cols, int64_t col) {
  float scale;
  std::memcpy(&scale, levels + cols, sizeof(scale));
  return static_cast<float>(levels[col]) * scale;
}

inline float load(Tensor tensor, int64_t row, int64_t col) {
  switch (tensor.dtype) {
    case DType::kBF16:
      return from_bf16(tensor.bf16(row)[col]);
    case DType::kF16:
      return from_f16(tensor.row<uint16_t>(row)[col]);
    case DType::kInt8:
      return load_level(tensor.row<int8_t>(row), tensor.cols, col);
    default:
      return tensor.f32(row)[col];
  }
}

// Stores one row in the dtype of `tensor`: f32, bf16 or int8.
inline void store_row(const float* values, Tensor tensor, int64_t row) {
  if (tensor.dtype == DType::kInt8) return write_int8_row(values, tensor, row);
  for (int64_t col = 0; col < tensor.cols; ++col) {
    if (tensor.dtype == DType::kBF16) {
      tensor.bf16(row)[col] = to_bf16(values[col]);
    } else {
      tensor.f32(row)[col] = values[col];
    }
  }
}

}  // namespace kascade::reference

#endif  // KASCADE_ENGINE_BACKEND_REFERENCE_ELEMENTS_H_
