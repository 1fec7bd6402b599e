// Float formats into each other, with a watch for values that a model cannot have.
#ifndef KASCADE_TOOLS_CONVERT_VALUE_CAST_H_
#define KASCADE_TOOLS_CONVERT_VALUE_CAST_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "engine/backend/tensor.h"

namespace kascade::convert {

// Element `index` of f32, bf16 or f16 values (any alignment).
float value_at(std::span<const std::byte> values, DType dtype, int64_t index);

// Index of the first value that is infinite or not a number.
std::optional<int64_t> first_not_finite(std::span<const std::byte> values, DType dtype);

// Converts `from` into `to`, which has as many elements; rounds to nearest, ties to even. What is
// too large for the target becomes infinite.
void cast_values(std::span<const std::byte> from, DType from_type, std::span<std::byte> to,
                 DType to_type);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_VALUE_CAST_H_
