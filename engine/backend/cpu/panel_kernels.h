// Matrix products on plain pointers: one tile of rows by one panel of channels per call. Each sum
// has a register and adds its products in the order of the inputs, so that a row's result does not
// depend on the other rows.
//
// With quantised rows and weights (engine/backend/quantization.h) sums are integers, and all sets
// of kernels agree on them to the bit. The instructions for this multiply unsigned by signed bytes.
// Weights are the unsigned operand: kInt8Offset or kInt4Offset is added to the levels, and a sum
// starts from minus the offset times the sum of the row's levels instead of from 0.
#ifndef KASCADE_ENGINE_BACKEND_CPU_PANEL_KERNELS_H_
#define KASCADE_ENGINE_BACKEND_CPU_PANEL_KERNELS_H_

#include <cstdint>

#include "engine/backend/block_formats.h"

namespace kascade::cpu {

// Most rows of a tile: their sums and the weights fit 32 vector registers.
constexpr int32_t kTileRows = 12;

// An int8 panel holds, for every 4 inputs, 4 bytes of each channel.
constexpr int32_t kInt8Channels = 32;
constexpr int32_t kInt8Step = 4;
constexpr int32_t kInt8StepBytes = kInt8Channels * kInt8Step;
constexpr int32_t kInt8Offset = 128;

// An int4 panel holds, for every block of 64 inputs, its 8 groups of 8 inputs, then their
// multiples. Levels and multiples are codes of four bits: a level's index in kInt4Levels; 0 to 7
// for the multiples 5 to 12, 8 to 15 for -5 to -12. A group is 2 × 64 bytes, part h for the
// channels 16h … 16h + 15: byte 4c + i holds for channel 16h + c the inputs i (low half) and 4 + i
// (high half). Then follow 32 words, one per channel, lowest byte first: bits 4g … 4g + 3 belong to
// group g.
constexpr int32_t kInt4Channels = 32;
constexpr int32_t kInt4BlockInputs = 64;
constexpr int32_t kInt4BlockGroups = 8;
constexpr int32_t kInt4GroupBytes = 128;
constexpr int32_t kInt4MultipleBytes = 128;
constexpr int32_t kInt4BlockBytes = kInt4BlockGroups * kInt4GroupBytes + kInt4MultipleBytes;
constexpr int32_t kInt4Offset = 10;
// The most rows of a product for which int4 weights are multiplied in this form. With more rows,
// parts of a panel are first unpacked to an int8 panel of level · multiple. The sums are the same.
constexpr int64_t kInt4DirectRows = 8;
static_assert(kInt4Channels == kInt8Channels && kInt4BlockInputs % kInt8Step == 0);

// A bf16 panel holds, for every 2 inputs, a pair of each channel with the first input in the low
// half.
constexpr int32_t kBf16Channels = 32;
constexpr int32_t kBf16Step = 2;
constexpr int32_t kBf16StepBytes = kBf16Channels * kBf16Step * 2;

// A panel of GGUF's blocks (engine/backend/block_formats.h) has 16 channels. For each block of 32
// or 256 inputs it holds:
// - in the K formats, the header: 16 f16 scales, then 16 f16 minima if the format has them;
// - for each group of 32 inputs, the levels and then the scales of the group.
// Levels of 8 bits: 8 × 64 bytes; byte 4c + i of part p is input 4p + i of channel c. Fewer bits: 4
// × 64 bytes with the lower four bits; byte 4c + i of part p holds the inputs 4p + i (low half) and
// 16 + 4p + i (high half). Then the bits above: with 5 bits 64 bytes, where bit p of byte 4c + i
// belongs to input 4p + i; with 6 bits 2 × 64 bytes, where bits 2q and 2q + 1 of byte 4c + i of
// part p belong to input 16p + 4q + i. Scales: 16 f16 numbers, then 16 minima if the format has
// them. In the K formats multiples instead: Q6_K has 16 bytes for each of its two groups of 16
// inputs; in the others, byte c of 16 holds the multiple of the scale (6 bits) and the lower two
// bits of the multiple of the minimum; its upper four bits are in byte c % 8 of 8 more, for c < 8
// in the low half.
constexpr int32_t kBlockChannels = 16;
constexpr int32_t kBlockNibbleBytes = 4 * 64;
constexpr int64_t block_level_bytes(int32_t bits) { return bits * 64; }
constexpr int64_t block_header_bytes(const BlockFormat& format) {
  return !format.multiples ? 0 : (format.minima ? 2 : 1) * 2 * kBlockChannels;
}
constexpr int64_t block_scale_bytes(const BlockFormat& format) {
  if (format.multiples) return format.minima ? kBlockChannels + 8 : 2 * kBlockChannels;
  return (format.minima ? 2 : 1) * 2 * kBlockChannels;
}
constexpr int64_t block_panel_bytes(DType dtype) {
  const BlockFormat format = block_format_of(dtype);
  return block_header_bytes(format) +
         block_size_of(dtype).inputs / kBlockGroup *
             (block_level_bytes(format.bits) + block_scale_bytes(format));
}

// A tile of rows as the kernels read it: the rows' values of one input lie side by side.
struct PanelTile {
  // [inputs / 4][rows] words of 4 levels, lowest byte first; with bf16 [inputs / 2][rows] pairs
  const int32_t* words = nullptr;
  // [sums][rows] start values: int8 one, int4 and blocks one per group of the weights; not with
  // bf16. Blocks with minima have no offset, and their sums start from 0.
  const int32_t* starts = nullptr;
  const float* scales = nullptr;      // [rows], with blocks [groups][rows]; not with bf16
  const float* level_sums = nullptr;  // blocks: [groups][rows] scale · sum of the group's levels
  int32_t rows = 0;
};

struct Panel {
  const uint8_t* weights = nullptr;
  const float* scales = nullptr;  // of all channels of the panel; int8 and int4
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
  // [rows of the tile][channels of a panel]: sums that further inputs will be added to; with blocks
  // they are f32 numbers
  int32_t* sums = nullptr;
};

// The place where quantize() writes one row of a tile.
struct IntegerRow {
  int32_t* words = nullptr;
  int32_t* starts = nullptr;
  int32_t rows = 0;        // rows of the tile = distance between entries
  int64_t padded = 0;      // inputs, filled up with zeros; a multiple of 64
  int64_t sum_length = 0;  // inputs per entry of starts: 8 or a multiple of 16
  int32_t offset = 0;
};

// The place where quantize_groups() writes one row of a tile.
struct GroupedRow {
  IntegerRow integers{};
  float* scales = nullptr;      // one per 32 inputs
  float* level_sums = nullptr;  // the same
};

using PanelKernel = void (*)(const PanelTile& tile, const Panel& panel, const PanelOut& out);

struct IntegerKernels {
  const char* isa;
  // out = x, rotated as rotate_inputs() does.
  void (*rotate)(const float* x, int64_t size, float* out);
  // Quantises the row as quantize_int8() does and returns its scale.
  float (*quantize)(const float* x, int64_t size, const IntegerRow& row);
  // Quantises the row as quantize_int8_groups() does, in groups of 32 values.
  void (*quantize_groups)(const float* x, int64_t size, const GroupedRow& row);
  // quantize_int4(), for packing.
  float (*quantize_int4)(const float* values, int64_t size, int8_t* levels, int8_t* multiples);
  PanelKernel int8;
  PanelKernel int4;  // for at most kInt4DirectRows rows
  // Writes `blocks` blocks of an int4 panel as an int8 panel.
  void (*unpack_int4)(const uint8_t* weights, int64_t blocks, uint8_t* int8_panel);
  const PanelKernel* blocks;  // of each dtype with blocks, from kQ8_0 on
};

struct Bf16Kernels {
  const char* isa;
  // Writes the row in bf16, one pair every `rows` words, with zeros from `size` up to the next
  // multiple of 32.
  void (*to_pairs)(const float* x, int64_t size, int32_t rows, int32_t* words);
  PanelKernel multiply;
};

// Null if the processor has no bf16 dot product.
const Bf16Kernels* pick_bf16_kernels();

// Writes up to `room` sets of kernels that this machine can run, best first, and returns how many.
int32_t usable_integer_kernels(const IntegerKernels** out, int32_t room);
const IntegerKernels& pick_integer_kernels();

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_PANEL_KERNELS_H_
