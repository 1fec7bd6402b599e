// Products of quantised rows and weights (engine/backend/quantization.h) on plain pointers: one
// tile of rows by one panel of channels per call. Integers throughout, so that all sets of kernels
// agree to the bit up to the sum, and a row's result does not depend on its neighbours.
//
// Instructions for this multiply unsigned by signed bytes. Weights are the unsigned side, moved up
// by kInt8Offset or kInt4Offset; sums start from minus the offset times the row's levels instead of
// from 0.
#ifndef KASCADE_ENGINE_BACKEND_CPU_INTEGER_KERNELS_H_
#define KASCADE_ENGINE_BACKEND_CPU_INTEGER_KERNELS_H_

#include <cstdint>

namespace kascade::cpu {

constexpr int32_t kTileRows = 12;  // at most; what 32 vector registers hold beside the weights

// int8 panel: for every 4 inputs, of each channel 4 bytes.
constexpr int32_t kInt8Channels = 32;
constexpr int32_t kInt8Step = 4;
constexpr int32_t kInt8StepBytes = kInt8Channels * kInt8Step;
constexpr int32_t kInt8Offset = 128;

// int4 panel: for every block of 64 inputs, its 4 groups of 16, then of each group 16 multiples.
// A group is 2 × 64 bytes: byte 4c + i of part p holds of channel c the inputs 4p + i (low half)
// and 8 + 4p + i (high half).
constexpr int32_t kInt4Channels = 16;
constexpr int32_t kInt4BlockInputs = 64;
constexpr int32_t kInt4BlockGroups = 4;
constexpr int32_t kInt4GroupBytes = 128;
constexpr int32_t kInt4BlockBytes = kInt4BlockGroups * (kInt4GroupBytes + kInt4Channels);
constexpr int32_t kInt4Offset = 8;

// Quantised rows, level by level side by side.
struct IntegerTile {
  const int32_t* levels = nullptr;  // [inputs / 4][rows]: 4 levels each, lowest byte first
  const int32_t* starts = nullptr;  // [sums][rows]: int8 one sum, int4 one per group
  const float* scales = nullptr;    // [rows]
  int32_t rows = 0;
};

struct IntegerPanel {
  const uint8_t* weights = nullptr;
  const float* scales = nullptr;  // of all channels, also those beyond `channels`
  int64_t blocks = 0;             // int8: steps of 4 inputs; int4: blocks of 64
  int32_t channels = 0;           // that are wanted
};

struct IntegerOut {
  float* out = nullptr;
  int64_t stride = 0;
  bool add = false;
};

// Where quantize() puts one row of a tile.
struct IntegerRow {
  int32_t* levels = nullptr;
  int32_t* starts = nullptr;
  int32_t rows = 0;        // of the tile: the distance between entries
  int64_t padded = 0;      // inputs, zeros beyond the row; a multiple of 64
  int64_t sum_length = 0;  // inputs per start; a multiple of 16
  int32_t offset = 0;
};

struct IntegerKernels {
  const char* isa;
  // quantize_int8() of the row; returns its scale.
  float (*quantize)(const float* x, int64_t size, const IntegerRow& row);
  void (*int8)(const IntegerTile& tile, const IntegerPanel& panel, const IntegerOut& out);
  void (*int4)(const IntegerTile& tile, const IntegerPanel& panel, const IntegerOut& out);
};

// Best first: every set that this machine can run.
int32_t usable_integer_kernels(const IntegerKernels** out, int32_t room);
const IntegerKernels& pick_integer_kernels();

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_INTEGER_KERNELS_H_
