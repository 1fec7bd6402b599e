// Matrix products on plain pointers: one tile of rows by one panel of channels per call. Each sum
// has a register and adds its products in the order of the inputs, so that a row's result does not
// depend on the other rows.
//
// With quantised rows and weights (engine/backend/quantization.h) sums are integers, and all sets
// of kernels agree on them to the bit. The instructions for this multiply unsigned by signed bytes.
// Weights are the unsigned operand: kInt8Offset or kInt4Offset is added to them, and a sum starts
// from minus the offset times the sum of the row's levels instead of from 0.
#ifndef KASCADE_ENGINE_BACKEND_CPU_PANEL_KERNELS_H_
#define KASCADE_ENGINE_BACKEND_CPU_PANEL_KERNELS_H_

#include <cstdint>

namespace kascade::cpu {

// Most rows of a tile: their sums and the weights fit 32 vector registers.
constexpr int32_t kTileRows = 12;

// An int8 panel holds, for every 4 inputs, 4 bytes of each channel.
constexpr int32_t kInt8Channels = 32;
constexpr int32_t kInt8Step = 4;
constexpr int32_t kInt8StepBytes = kInt8Channels * kInt8Step;
constexpr int32_t kInt8Offset = 128;

// An int4 panel holds, for every block of 64 inputs, its 4 groups of 16 inputs, then 16 multiples
// (one per channel) for each group. A group is 2 × 64 bytes: byte 4c + i of part p holds for
// channel c the inputs 4p + i (low half) and 8 + 4p + i (high half).
constexpr int32_t kInt4Channels = 16;
constexpr int32_t kInt4BlockInputs = 64;
constexpr int32_t kInt4BlockGroups = 4;
constexpr int32_t kInt4GroupBytes = 128;
constexpr int32_t kInt4BlockBytes = kInt4BlockGroups * (kInt4GroupBytes + kInt4Channels);
constexpr int32_t kInt4Offset = 8;

// A bf16 panel holds, for every 2 inputs, a pair of each channel with the first input in the low
// half.
constexpr int32_t kBf16Channels = 32;
constexpr int32_t kBf16Step = 2;
constexpr int32_t kBf16StepBytes = kBf16Channels * kBf16Step * 2;

// A tile of rows as the kernels read it: the rows' values of one input lie side by side.
struct PanelTile {
  // [inputs / 4][rows] words of 4 levels, lowest byte first; with bf16 [inputs / 2][rows] pairs
  const int32_t* words = nullptr;
  const int32_t* starts = nullptr;  // [sums][rows] start values: int8 one, int4 one per group
  const float* scales = nullptr;    // [rows]; not with bf16
  int32_t rows = 0;
};

struct Panel {
  const uint8_t* weights = nullptr;
  const float* scales = nullptr;  // of all channels of the panel; not with bf16
  int64_t blocks = 0;             // int8: steps of 4 inputs; int4: blocks of 64; bf16: pairs
  int32_t channels = 0;           // number of channels to compute
  // Whether these inputs are the first and the last of their sums.
  bool begins = true;
  bool ends = true;
};

struct PanelOut {
  float* out = nullptr;
  int64_t stride = 0;
  bool add = false;
  // [rows of the tile][channels of a panel]: sums that further inputs will be added to
  int32_t* sums = nullptr;
};

// The place where quantize() writes one row of a tile.
struct IntegerRow {
  int32_t* words = nullptr;
  int32_t* starts = nullptr;
  int32_t rows = 0;        // rows of the tile = distance between entries
  int64_t padded = 0;      // inputs, filled up with zeros; a multiple of 64
  int64_t sum_length = 0;  // inputs per entry of starts; a multiple of 16
  int32_t offset = 0;
};

struct IntegerKernels {
  const char* isa;
  // Quantises the row as quantize_int8() does and returns its scale.
  float (*quantize)(const float* x, int64_t size, const IntegerRow& row);
  void (*int8)(const PanelTile& tile, const Panel& panel, const PanelOut& out);
  void (*int4)(const PanelTile& tile, const Panel& panel, const PanelOut& out);
};

struct Bf16Kernels {
  const char* isa;
  // Writes the row in bf16, one pair every `rows` words, with zeros from `size` up to the next
  // multiple of 32.
  void (*to_pairs)(const float* x, int64_t size, int32_t rows, int32_t* words);
  void (*multiply)(const PanelTile& tile, const Panel& panel, const PanelOut& out);
};

// Null if the processor has no bf16 dot product.
const Bf16Kernels* pick_bf16_kernels();

// Writes up to `room` sets of kernels that this machine can run, best first, and returns how many.
int32_t usable_integer_kernels(const IntegerKernels** out, int32_t room);
const IntegerKernels& pick_integer_kernels();

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_PANEL_KERNELS_H_
