// Quantisation of weights and activations to small integers. All backends follow these definitions,
// so that they multiply and add the same integers.
//
// Before they are quantised, output channels (rows of W) and rows of activations are both rotated
// along their inputs (rotate_inputs()). A rotation leaves their product as it is and spreads a few
// values that are much larger than the others over many inputs. Without it such a value would
// determine the scale of its row, and all others would be rounded coarsely.
//
// A *level* is the small integer that a value is rounded to.
// int8 weights: an output channel is level · scale, with levels in [-127, 127].
// int4 weights: an output channel is level · multiple · scale, with levels in [-8, 7] and one
// multiple in [-127, 127] for each group of 16 inputs. Several multiples near the group's largest
// value are tried, and the one with the least squared error is taken.
// Activations: each row is quantised like an int8 channel.
//
// A product sums level · level exactly in 32-bit integers, over at most so many inputs that the sum
// cannot overflow (kInt8SumLength, kInt4SumLength). The result is the total of (sum · scale of the
// channel) · scale of the row over these sums.
#ifndef KASCADE_ENGINE_BACKEND_QUANTIZATION_H_
#define KASCADE_ENGINE_BACKEND_QUANTIZATION_H_

#include <cstdint>

#include "engine/backend/tensor.h"

namespace kascade {

constexpr int64_t kInt4Group = 16;
// Most inputs of one integer sum. A term is at most 127 · 127, and 8 · 127 · 127 with int4's
// multiple. Both lengths are multiples of the blocks that weights are packed in.
constexpr int64_t kInt8SumLength = int64_t{1} << 17;
constexpr int64_t kInt4SumLength = int64_t{1} << 14;
static_assert(kInt8SumLength * 127 * 127 < (int64_t{1} << 31));
static_assert(kInt4SumLength * 8 * 127 * 127 < (int64_t{1} << 31));

// If all values are smaller than this, they count as 0: their scale would not be a normal number.
constexpr float kNegligible = 0x1p-100f;

// Most inputs that are rotated together.
constexpr int64_t kRotationBlock = 256;

// Rotates a channel or a row of activations in place. It is divided into blocks of 256 inputs, the
// rest into blocks of 64, 16, 4 and 1. In each block, the signs of some inputs are changed
// (changes_sign()), and the block is multiplied by the orthogonal Hadamard matrix of its size:
// out[i] = Σ_j (-1)^(number of ones in i & j) · in[j] / √size. The sums are computed in stages that
// add and subtract inputs at distances of 1, 2, 4 and so on, so that all backends get the same
// bits. Rotations before quantisation: QuaRot (arXiv 2404.00456).
void rotate_inputs(float* values, int64_t size);

// Whether a rotation changes the sign of input `index` of its block. The signs are those of a fixed
// random sequence: without them, equal values of a block would add up in a single output.
constexpr bool changes_sign(int64_t index) {
  uint32_t bits = static_cast<uint32_t>(index) * 0x9e3779b9u;
  bits = (bits ^ (bits >> 16)) * 0x85ebca6bu;
  return ((bits ^ (bits >> 13)) & 1u) != 0;
}

// Quantises one channel or one row of activations: writes its levels and returns the scale. A value
// that is not finite makes the scale NaN and all levels 0.
// Files of packed weights hold these levels. Whoever changes them must change the names of the
// packed forms (form_name() in cpu/matmul_panels.cc).
float quantize_int8(const float* values, int64_t size, int8_t* levels);

// Quantises a row of activations in groups of `group` values, each like an int8 channel: writes its
// levels [size] and scales [size / group rounded up].
void quantize_int8_groups(const float* values, int64_t size, int64_t group, int8_t* levels,
                          float* scales);

// Write and read row `row` of a matrix of DType::kInt8, whose levels and scale are those of
// quantize_int8().
void write_int8_row(const float* values, Tensor to, int64_t row);
void read_int8_row(Tensor from, int64_t row, float* values);

// The multiples that quantize_int4() tries put the value of largest magnitude in its group at
// levels 6 to 10 in magnitude, around the natural 8, with either sign.
constexpr float kInt4Tightest = 6.0f, kInt4Widest = 10.0f, kInt4Pace = 0.5f;
constexpr float kInt4LargestMultiple = 127.0f;

// The largest magnitude, or NaN if a value is not finite.
float largest_magnitude(const float* values, int64_t size);

// Quantises one channel: writes levels [size] and multiples [size / 16 rounded up] and returns the
// scale. Values that are not finite are treated as in quantize_int8().
float quantize_int4(const float* values, int64_t size, int8_t* levels, int8_t* multiples);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_QUANTIZATION_H_
