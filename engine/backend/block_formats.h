// The block formats of GGUF: weights that are stored as small integers, and what their products
// are. All backends follow these definitions.
//
// A row of a matrix consists of blocks of 32 inputs (Q8_0, Q4_0, Q4_1, Q5_0, Q5_1) or 256 inputs
// (Q4_K, Q5_K, Q6_K). A block holds a *level* for each input and one scale for each group of 32
// inputs (16 in Q6_K). The formats Q4_1, Q5_1, Q4_K and Q5_K also have a minimum for each group:
//   weight = scale · level + minimum;
// in the others, levels are relative to a fixed offset:
//   weight = scale · (level - offset).
// Scales and minima are f16 numbers. In the K formats, a block has one f16 scale (and minimum), of
// which each group has a small integer multiple.
//
// Activations are quantised in groups of 32 inputs, each like an int8 channel
// (engine/backend/quantization.h). A product is the sum over the groups, in their order, in f32:
//   sum = fma(float(Σ (level - offset) · x_level) · scale, x_scale, sum)
//   sum = fma(minimum, x_scale · float(Σ x_level), sum)       if the format has minima.
// The two groups of 16 in Q6_K give one term: float(Σ₁) · scale₁ + float(Σ₂) · scale₂, where the
// last product is fused with the addition.
#ifndef KASCADE_ENGINE_BACKEND_BLOCK_FORMATS_H_
#define KASCADE_ENGINE_BACKEND_BLOCK_FORMATS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/backend/tensor.h"

namespace kascade {

// Inputs of a group of activations, and of the groups of weights except in Q6_K.
constexpr int64_t kBlockGroup = 32;

struct BlockFormat {
  int32_t bits = 8;             // of a level
  int32_t offset = 0;           // of the levels
  bool minima = false;          // whether groups have a minimum
  bool multiples = false;       // whether the scales of groups are multiples of a block's scale
  int64_t group = kBlockGroup;  // inputs per scale
};

constexpr BlockFormat block_format_of(DType dtype) {
  constexpr BlockFormat kFormats[] = {
      {8, 128, false, false}, {4, 8, false, false}, {4, 0, true, false}, {5, 16, false, false},
      {5, 0, true, false},    {4, 0, true, true},   {5, 0, true, true},  {6, 32, false, true, 16}};
  return kFormats[static_cast<int>(dtype) - static_cast<int>(DType::kQ8_0)];
}

// The dtype with blocks of this name ("Q4_K"); unset for any other name.
std::optional<DType> block_dtype_named(std::string_view name);

// One row of a matrix with blocks, taken apart.
struct BlockRow {
  std::vector<uint8_t> levels{};            // [cols]; with the offset
  std::vector<uint16_t> scales{};           // [blocks] f16 numbers as bits
  std::vector<uint16_t> minima{};           // the same, or empty; subtracted in the K formats
  std::vector<int8_t> multiples{};          // [groups] of the block's scale; empty = 1
  std::vector<int8_t> minimum_multiples{};  // [groups]; empty = 1

  float scale(int64_t group) const;
  float minimum(int64_t group) const;  // 0 without minima
  int64_t groups_per_block() const {
    return multiples.empty() ? 1 : static_cast<int64_t>(multiples.size() / scales.size());
  }
};

// Takes a row of `cols` inputs apart; the vectors keep their memory between calls. `row` need not
// be aligned.
void read_block_row(DType dtype, const std::byte* row, int64_t cols, BlockRow& out);

// Writes the weights of a row of `cols` inputs in f32.
void dequantize_row(DType dtype, const std::byte* row, int64_t cols, float* values);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_BLOCK_FORMATS_H_
