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
// int4 weights: an output channel is level · multiple · scale. Levels are the 16 of kInt4Levels,
// denser around 0, where most values are. Each group of 8 inputs has one of the 16 multiples ±5 to
// ±12: the one with the least squared error. The scale is largest magnitude / 120, and so
// level · multiple is a whole number in [-120, 120], with which int4 weights are multiplied like
// int8 weights.
// Activations: each row is quantised like an int8 channel.
//
// A product sums level · level exactly in 32-bit integers, over at most so many inputs that the sum
// cannot overflow (kIntegerSumLength). The result is the total of (sum · scale of the
// channel) · scale of the row over these sums.
#ifndef KASCADE_ENGINE_BACKEND_QUANTIZATION_H_
#define KASCADE_ENGINE_BACKEND_QUANTIZATION_H_

#include <cstdint>

#include "engine/backend/tensor.h"

namespace kascade {

// Most inputs of one integer sum, whose terms are at most 127 · 127. It is a multiple of the blocks
// that weights are packed in.
constexpr int64_t kIntegerSumLength = int64_t{1} << 17;
static_assert(kIntegerSumLength * 127 * 127 < (int64_t{1} << 31));

constexpr int64_t kInt4Group = 8;
// In ascending order. Found by a search for the least error of normally distributed values, which
// rotated channels nearly are.
constexpr int8_t kInt4Levels[16] = {-10, -8, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 7, 9};
constexpr int32_t kInt4LeastMultiple = 5, kInt4LargestMultiple = 12;
constexpr float kInt4LargestStep = 120.0f;  // 12 · 10

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

// The largest magnitude, or NaN if a value is not finite.
float largest_magnitude(const float* values, int64_t size);

// Quantises one channel: writes levels [size] and multiples [size / 8 rounded up] and returns the
// scale. The multiples are tried in the order 5, -5, 6, -6 and so on; the first of the best is
// taken. Values that are not finite are treated as in quantize_int8().
float quantize_int4(const float* values, int64_t size, int8_t* levels, int8_t* multiples);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_QUANTIZATION_H_
