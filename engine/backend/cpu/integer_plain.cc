// The integer kernels for machines without byte-product instructions: loops that the compiler
// vectorises.
#include "engine/backend/cpu/block_kernels.h"
#include "engine/backend/cpu/int4_search.h"
#include "engine/backend/cpu/plain_levels.h"
#include "engine/backend/cpu/rotation.h"

#define KASCADE_TEXT_OF(name) #name
#define KASCADE_TEXT(name) KASCADE_TEXT_OF(name)

namespace kascade::cpu::KASCADE_ISA {
namespace {

// Scales the sums of a row of `width` channels and writes or adds them to its output.
void finish(const int32_t* sums, int32_t width, const PanelTile& tile, int32_t row,
            const Panel& panel, const PanelOut& to) {
  if (!panel.ends) {
    for (int32_t c = 0; c < width; ++c) to.sums[row * width + c] = sums[c];
    return;
  }
  float* out = to.out + row * to.stride;
  for (int32_t c = 0; c < panel.channels; ++c) {
    const float value = static_cast<float>(sums[c]) * panel.scales[c] * tile.scales[row];
    out[c] = to.add ? out[c] + value : value;
  }
}

// Sums are modulo 2³², because with the weights' offset an intermediate sum may exceed 2³¹ although
// the result does not.
void int8_tile(const PanelTile& tile, const Panel& panel, const PanelOut& to) {
  for (int32_t row = 0; row < tile.rows; ++row) {
    uint32_t sums[kInt8Channels];
    for (int32_t c = 0; c < kInt8Channels; ++c) {
      const int32_t start = panel.begins ? tile.starts[row] : to.sums[row * kInt8Channels + c];
      sums[c] = static_cast<uint32_t>(start);
    }
    const uint8_t* w = panel.weights;
    for (int64_t step = 0; step < panel.blocks; ++step, w += kInt8StepBytes) {
      const int32_t four = tile.words[step * tile.rows + row];
      const int32_t x[] = {level_of(four, 0), level_of(four, 1), level_of(four, 2),
                           level_of(four, 3)};
      for (int32_t c = 0; c < kInt8Channels; ++c) {
        const int32_t sum =
            x[0] * w[4 * c] + x[1] * w[4 * c + 1] + x[2] * w[4 * c + 2] + x[3] * w[4 * c + 3];
        sums[c] += static_cast<uint32_t>(sum);
      }
    }
    int32_t result[kInt8Channels];
    for (int32_t c = 0; c < kInt8Channels; ++c) result[c] = static_cast<int32_t>(sums[c]);
    finish(result, kInt8Channels, tile, row, panel, to);
  }
}

// Adds the products of one group to sums [kInt4Channels].
KASCADE_INLINE void add_group(const int32_t* levels, int32_t rows, int32_t start, const uint8_t* w,
                              const int8_t* multiples, int32_t* sums) {
  int32_t group[kInt4Channels];
  for (int32_t c = 0; c < kInt4Channels; ++c) group[c] = start;
  for (int part = 0; part < 2; ++part) {
    const int32_t low = levels[part * rows], high = levels[(part + 2) * rows];
    for (int i = 0; i < 4; ++i) {
      const int32_t x_low = level_of(low, i), x_high = level_of(high, i);
      for (int32_t c = 0; c < kInt4Channels; ++c) {
        const uint8_t byte = w[64 * part + 4 * c + i];
        group[c] += x_low * (byte & 15) + x_high * (byte >> 4);
      }
    }
  }
  for (int32_t c = 0; c < kInt4Channels; ++c) sums[c] += group[c] * multiples[c];
}

void int4_tile(const PanelTile& tile, const Panel& panel, const PanelOut& to) {
  for (int32_t row = 0; row < tile.rows; ++row) {
    int32_t sums[kInt4Channels] = {};
    if (!panel.begins) __builtin_memcpy(sums, to.sums + row * kInt4Channels, sizeof(sums));
    const uint8_t* w = panel.weights;
    for (int64_t block = 0; block < panel.blocks; ++block, w += kInt4BlockBytes) {
      const auto* multiples =
          reinterpret_cast<const int8_t*>(w + kInt4BlockGroups * kInt4GroupBytes);
      for (int64_t g = 0; g < kInt4BlockGroups; ++g) {
        const int64_t group = block * kInt4BlockGroups + g;
        add_group(tile.words + 4 * group * tile.rows + row, tile.rows,
                  tile.starts[group * tile.rows + row], w + g * kInt4GroupBytes,
                  multiples + g * kInt4Channels, sums);
      }
    }
    finish(sums, kInt4Channels, tile, row, panel, to);
  }
}

float quantize(const float* x, int64_t size, const IntegerRow& row) {
  return quantize_counting(x, size, row).scale;
}

}  // namespace

extern const IntegerKernels integer_kernels;
const IntegerKernels integer_kernels = {KASCADE_TEXT(KASCADE_ISA),
                                        rotate,
                                        quantize,
                                        quantize_groups,
                                        quantize_int4,
                                        int8_tile,
                                        int4_tile,
                                        kBlockKernels};

}  // namespace kascade::cpu::KASCADE_ISA
