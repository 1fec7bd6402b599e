// The integer kernels for machines without byte-product instructions: loops that the compiler
// vectorises.
#include "engine/backend/cpu/block_kernels.h"
#include "engine/backend/cpu/int4_search.h"
#include "engine/backend/cpu/plain_levels.h"
#include "engine/backend/cpu/rotation.h"
#include "engine/backend/quantization.h"

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

constexpr int32_t int4_multiple(uint32_t code) {
  const auto size = static_cast<int32_t>(code & 7) + kInt4LeastMultiple;
  return code < 8 ? size : -size;
}

// Calls each(input, channel, level · multiple) for all weights of a block.
template <typename Each>
KASCADE_INLINE void for_each_weight(const uint8_t* block, const Each& each) {
  const uint8_t* codes = block + kInt4BlockGroups * kInt4GroupBytes;
  for (int32_t g = 0; g < kInt4BlockGroups; ++g) {
    for (int32_t c = 0; c < kInt4Channels; ++c) {
      const int32_t multiple = int4_multiple(codes[4 * c + g / 2] >> (g % 2 * 4) & 15u);
      const uint8_t* bytes = block + g * kInt4GroupBytes + 4 * c;
      for (int32_t i = 0; i < 4; ++i) {
        each(8 * g + i, c, kInt4Levels[bytes[i] & 15] * multiple);
        each(8 * g + 4 + i, c, kInt4Levels[bytes[i] >> 4] * multiple);
      }
    }
  }
}

void int4_tile(const PanelTile& tile, const Panel& panel, const PanelOut& to) {
  for (int32_t row = 0; row < tile.rows; ++row) {
    int32_t sums[kInt4Channels] = {};
    if (!panel.begins) __builtin_memcpy(sums, to.sums + row * kInt4Channels, sizeof(sums));
    const uint8_t* w = panel.weights;
    for (int64_t block = 0; block < panel.blocks; ++block, w += kInt4BlockBytes) {
      const int32_t* words = tile.words + block * kInt4BlockInputs / 4 * tile.rows + row;
      for_each_weight(w, [&](int32_t input, int32_t channel, int32_t weight) {
        sums[channel] += level_of(words[input / 4 * tile.rows], input % 4) * weight;
      });
    }
    finish(sums, kInt4Channels, tile, row, panel, to);
  }
}

void unpack_int4(const uint8_t* w, int64_t blocks, uint8_t* to) {
  for (int64_t block = 0; block < blocks; ++block, w += kInt4BlockBytes) {
    for_each_weight(w, [&](int32_t input, int32_t channel, int32_t weight) {
      to[input / kInt8Step * kInt8StepBytes + channel * kInt8Step + input % kInt8Step] =
          static_cast<uint8_t>(weight + kInt8Offset);
    });
    to += kInt4BlockInputs / kInt8Step * kInt8StepBytes;
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
                                        unpack_int4,
                                        kBlockKernels};

}  // namespace kascade::cpu::KASCADE_ISA
