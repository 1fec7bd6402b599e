// Weights and activations in small integers: the rules that all backends follow, so that they
// multiply and add the same integers.
//
// int8: a channel (row of W) is level · scale with levels in [-127, 127].
// int4: a channel is level · multiple · scale with levels in [-8, 7] and one multiple in
// [-127, 127] per group of 16 inputs. Of the multiples around the obvious one it takes the one with
// the least squared error.
// Activations: as an int8 channel, row by row.
//
// A product sums levels exactly in 32 bits, over as many inputs as cannot overflow them
// (integer_sum_length); each such sum adds (sum · channel's scale) · row's scale to the result.
#ifndef KASCADE_ENGINE_BACKEND_QUANTIZATION_H_
#define KASCADE_ENGINE_BACKEND_QUANTIZATION_H_

#include <cstdint>

#include "engine/backend/tensor.h"

namespace kascade {

constexpr int64_t kInt4Group = 16;
// |level · activation| ≤ 127 · 127; 8 · 127 · 127 with int4's multiple. Multiples of the blocks
// that the weights are packed in.
constexpr int64_t kInt8SumLength = int64_t{1} << 17;
constexpr int64_t kInt4SumLength = int64_t{1} << 14;
static_assert(kInt8SumLength * 127 * 127 < (int64_t{1} << 31));
static_assert(kInt4SumLength * 8 * 127 * 127 < (int64_t{1} << 31));

// What is smaller than this throughout counts as 0: its scale would leave the normal numbers.
constexpr float kNegligible = 0x1p-100f;

// Levels of one channel or of one row of activations; returns the scale. A value that is not finite
// makes the scale NaN and all levels 0.
// Files of packed weights hold these levels: a change needs new names of form (form_name() in
// cpu/matmul_panels.cc).
float quantize_int8(const float* values, int64_t size, int8_t* levels);

// Row `row` of a matrix of DType::kInt8: levels and scale of quantize_int8(), and back.
void write_int8_row(const float* values, Tensor to, int64_t row);
void read_int8_row(Tensor from, int64_t row, float* values);

// levels [size], multiples [size / 16 rounded up]; returns the scale, as quantize_int8().
float quantize_int4(const float* values, int64_t size, int8_t* levels, int8_t* multiples);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_QUANTIZATION_H_
