// Converts between float formats and finds values that are not valid in a model.
#ifndef KASCADE_TOOLS_CONVERT_VALUE_CAST_H_
#define KASCADE_TOOLS_CONVERT_VALUE_CAST_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/backend/tensor.h"

namespace kascade::convert {

// Returns element `index` of f32, bf16 or f16 values, which may have any alignment.
float value_at(std::span<const std::byte> values, DType dtype, int64_t index);

// Returns the f32 values of whole blocks.
std::vector<std::byte> dequantized(std::span<const std::byte> blocks, DType dtype);

// Returns the index of the first value that is infinite or NaN.
std::optional<int64_t> first_not_finite(std::span<const std::byte> values, DType dtype);

// Converts `from` to `to`, which has the same number of elements. Rounds to nearest, ties to even.
// A value that is too large for the target format becomes infinite.
void cast_values(std::span<const std::byte> from, DType from_type, std::span<std::byte> to,
                 DType to_type);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_VALUE_CAST_H_
