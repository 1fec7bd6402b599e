// Copies rows of tensors between dtypes.
#ifndef KASCADE_ENGINE_BACKEND_CPU_CONVERT_ROW_H_
#define KASCADE_ENGINE_BACKEND_CPU_CONVERT_ROW_H_

#include <cstdint>

#include "engine/backend/cpu/kernels.h"
#include "engine/backend/tensor.h"

namespace kascade::cpu {

// Copies row `row` of `from` to row `row_to` of `to`, converted to its dtype.
void convert_row(const Kernels& kernels, Tensor from, int64_t row, Tensor to, int64_t row_to);

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_CONVERT_ROW_H_
