// Matrix products on plain pointers: one tile of rows by one panel of channels per call. Each sum
// has a register and adds its products in the order of the inputs, so that a row's result does not
// depend on its neighbours.
//
// With quantised rows and weights (engine/backend/quantization.h) sums are of integers, and all
// sets of kernels agree to the bit up to the sum. Instructions for this multiply unsigned by signed
// bytes. Weights are the unsigned side, moved up by kInt8Offset or kInt4Offset; sums start from
// minus the offset times the row's levels instead of from 0.
#ifndef KASCADE_ENGINE_BACKEND_CPU_PANEL_KERNELS_H_
#define KASCADE_ENGINE_BACKEND_CPU_PANEL_KERNELS_H_

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

// bf16 panel: for every 2 inputs, of each channel a pair, the first in the low half.
constexpr int32_t kBf16Channels = 32;
constexpr int32_t kBf16Step = 2;
constexpr int32_t kBf16StepBytes = kBf16Channels * kBf16Step * 2;

// Rows as the kernels multiply them, input by input side by side.
struct PanelTile {
  // [inputs / 4][rows] of 4 levels, lowest byte first; with bf16 [inputs / 2][rows] of pairs
  const int32_t* words = nullptr;
  const int32_t* starts = nullptr;  // [sums][rows]: int8 one sum, int4 one per group, bf16 none
  const float* scales = nullptr;    // [rows]; not with bf16
  int32_t rows = 0;
};

struct Panel {
  const uint8_t* weights = nullptr;
  const float* scales = nullptr;  // of all channels, also those beyond `channels`; not with bf16
  int64_t blocks = 0;             // int8: steps of 4 inputs; int4: blocks of 64; bf16: pairs
  int32_t channels = 0;           // that are wanted
  // Whether these are the first and the last inputs of their sums.
  bool begins = true;
  bool ends = true;
};

struct PanelOut {
  float* out = nullptr;
  int64_t stride = 0;
  bool add = false;
  int32_t* sums = nullptr;  // [tile's rows][channels of a panel]: between inputs of unfinished sums
};

// Where quantize() puts one row of a tile.
struct IntegerRow {
  int32_t* words = nullptr;
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
  void (*int8)(const PanelTile& tile, const Panel& panel, const PanelOut& out);
  void (*int4)(const PanelTile& tile, const Panel& panel, const PanelOut& out);
};

struct Bf16Kernels {
  const char* isa;
  // The row in bf16, a pair every `rows` words; zeros from `size` up to the next multiple of 32.
  void (*to_pairs)(const float* x, int64_t size, int32_t rows, int32_t* words);
  void (*multiply)(const PanelTile& tile, const Panel& panel, const PanelOut& out);
};

// nullptr where there is no bf16 dot product.
const Bf16Kernels* pick_bf16_kernels();

// Best first: every set that this machine can run.
int32_t usable_integer_kernels(const IntegerKernels** out, int32_t room);
const IntegerKernels& pick_integer_kernels();

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_PANEL_KERNELS_H_
