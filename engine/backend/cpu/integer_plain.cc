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

// Adds the products of four levels of a row and kWidth channels. Sums are modulo 2³², because with
// the weights' offset an intermediate sum may exceed 2³¹ although the result does not.
template <int32_t kWidth, typename Weight>
KASCADE_INLINE void add_step(int32_t four, const Weight* w, uint32_t* sums) {
  const int32_t x[] = {level_of(four, 0), level_of(four, 1), level_of(four, 2), level_of(four, 3)};
  for (int32_t c = 0; c < kWidth; ++c) {
    const int32_t sum =
        x[0] * w[4 * c] + x[1] * w[4 * c + 1] + x[2] * w[4 * c + 2] + x[3] * w[4 * c + 3];
    sums[c] += static_cast<uint32_t>(sum);
  }
}

void int8_tile(const PanelTile& tile, const Panel& panel, const PanelOut& to) {
  for (int32_t row = 0; row < tile.rows; ++row) {
    uint32_t sums[kInt8Channels];
    for (int32_t c = 0; c < kInt8Channels; ++c) {
      const int32_t start = panel.begins ? tile.starts[row] : to.sums[row * kInt8Channels + c];
      sums[c] = static_cast<uint32_t>(start);
    }
    for (int64_t step = 0; step < panel.blocks; ++step) {
      add_step<kInt8Channels>(tile.words[step * tile.rows + row],
                              panel.weights + step * kInt8StepBytes, sums);
    }
    int32_t result[kInt8Channels];
    for (int32_t c = 0; c < kInt8Channels; ++c) result[c] = static_cast<int32_t>(sums[c]);
    finish(result, kInt8Channels, tile, row, panel, to);
  }
}

// The weights of kLanes channels and 4 inputs; BitVec has a word of each of these channels.
typedef int8_t Bytes __attribute__((vector_size(kLanes * 4)));
typedef int8_t MemBytes __attribute__((vector_size(kLanes * 4), aligned(1), may_alias));
typedef uint32_t MemWords __attribute__((vector_size(kLanes * 4), aligned(1), may_alias));

// kInt4Levels of the codes, computed because a table cannot be looked up in vectors here. A
// comparison that holds is -1.
KASCADE_INLINE Bytes int4_levels(Bytes codes) {
  return codes - 8 - (codes > 13) - (codes > 14) + (codes < 2) + (codes < 1);
}

// The multiple of each channel, in all four of its bytes.
KASCADE_INLINE Bytes int4_multiples(BitVec codes) {
  const BitVec size = (codes & 7) + static_cast<uint32_t>(kInt4LeastMultiple);
  const BitVec negative = BitVec{} - (codes >> 3 & 1);
  return reinterpret_cast<Bytes>((((size ^ negative) - negative) & 0xff) * 0x01010101u);
}

constexpr int32_t kBlockWeights = kInt4BlockInputs * kInt4Channels;

// level · multiple of all weights of an int4 block, in the order of an int8 panel.
void read_int4_block(const uint8_t* block, int8_t* weights) {
  constexpr int32_t kBytes = sizeof(Bytes);
  const uint8_t* codes = block + kInt4BlockGroups * kInt4GroupBytes;
  for (int32_t g = 0; g < kInt4BlockGroups; ++g) {
    for (int32_t at = 0; at < kInt8StepBytes; at += kBytes) {
      const BitVec words = *reinterpret_cast<const MemWords*>(codes + at);
      const Bytes multiples = int4_multiples(words >> (4 * static_cast<uint32_t>(g)) & 15);
      const BitVec both = *reinterpret_cast<const MemWords*>(block + at);
      const Bytes low = reinterpret_cast<Bytes>(both & 0x0f0f0f0fu);
      const Bytes high = reinterpret_cast<Bytes>(both >> 4 & 0x0f0f0f0fu);
      *reinterpret_cast<MemBytes*>(weights + at) = int4_levels(low) * multiples;
      *reinterpret_cast<MemBytes*>(weights + kInt8StepBytes + at) = int4_levels(high) * multiples;
    }
    block += kInt4GroupBytes;
    weights += 2 * kInt8StepBytes;
  }
}

void int4_tile(const PanelTile& tile, const Panel& panel, const PanelOut& to) {
  uint32_t sums[kInt4DirectRows][kInt4Channels] = {};
  const auto bytes = sizeof(sums[0]);
  for (int32_t row = 0; row < tile.rows && !panel.begins; ++row) {
    __builtin_memcpy(sums[row], to.sums + row * kInt4Channels, bytes);
  }
  const int32_t* words = tile.words;
  for (int64_t block = 0; block < panel.blocks; ++block) {
    int8_t weights[kBlockWeights];
    read_int4_block(panel.weights + block * kInt4BlockBytes, weights);
    for (const int8_t* w = weights; w < weights + kBlockWeights; w += kInt8StepBytes) {
      for (int32_t row = 0; row < tile.rows; ++row) {
        add_step<kInt4Channels>(words[row], w, sums[row]);
      }
      words += tile.rows;
    }
  }
  for (int32_t row = 0; row < tile.rows; ++row) {
    int32_t result[kInt4Channels];
    __builtin_memcpy(result, sums[row], bytes);
    finish(result, kInt4Channels, tile, row, panel, to);
  }
}

void unpack_int4(const uint8_t* w, int64_t blocks, uint8_t* to) {
  for (int64_t block = 0; block < blocks; ++block, to += kBlockWeights) {
    int8_t weights[kBlockWeights];
    read_int4_block(w + block * kInt4BlockBytes, weights);
    for (int32_t at = 0; at < kBlockWeights; ++at) {
      to[at] = static_cast<uint8_t>(weights[at] + kInt8Offset);
    }
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
