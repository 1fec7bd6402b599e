// The kernels for GGUF's blocks for machines without byte-product instructions: loops that the
// compiler vectorises.
#include "engine/backend/cpu/block_kernels.h"
#include "engine/backend/cpu/plain_levels.h"

namespace kascade::cpu::KASCADE_ISA {
namespace {

// The levels of the inputs 4 · part … 4 · part + 3 of all channels: byte 4c + i.
template <int kBits>
KASCADE_INLINE void read_part(const uint8_t* w, int part, uint8_t* levels) {
  const uint8_t* low = w + 64 * (kBits == 8 ? part : part % 4);
  const uint8_t* high = w + kBlockNibbleBytes + (kBits == 6 ? 64 * (part / 4) : 0);
  for (int i = 0; i < 64; ++i) {
    int level = low[i];
    if constexpr (kBits < 8) level = (level >> (part < 4 ? 0 : 4)) & 15;
    if constexpr (kBits == 5) level |= ((high[i] >> part) & 1) << 4;
    if constexpr (kBits == 6) level |= ((high[i] >> (2 * (part % 4))) & 3) << 4;
    levels[i] = static_cast<uint8_t>(level);
  }
}

struct Scales {
  float scale[kBlockChannels];
  float minimum[kBlockChannels];
};

KASCADE_INLINE void read_halves(const uint8_t* from, float* to) {
  for (int c = 0; c < kBlockChannels; ++c) {
    uint16_t bits;
    __builtin_memcpy(&bits, from + 2 * c, sizeof(bits));
    to[c] = static_cast<float>(__builtin_bit_cast(_Float16, bits));
  }
}

template <DType kType>
KASCADE_INLINE void read_header(const uint8_t* w, Scales& to) {
  read_halves(w, to.scale);
  if constexpr (block_format_of(kType).minima) read_halves(w + 32, to.minimum);
}

// The scales of the group, and in Q6_K those of its given half.
template <DType kType>
KASCADE_INLINE void read_group_scales(const uint8_t* w, int half, const Scales& header,
                                      Scales& to) {
  constexpr BlockFormat kFormat = block_format_of(kType);
  if constexpr (!kFormat.multiples) return read_header<kType>(w, to);
  for (int c = 0; c < kBlockChannels; ++c) {
    const uint8_t byte = w[16 * half + c];
    if constexpr (kFormat.minima) {
      const int high = w[16 + c % 8] >> (c < 8 ? 0 : 4) & 15;
      to.scale[c] = header.scale[c] * static_cast<float>(byte & 63);
      to.minimum[c] = -(header.minimum[c] * static_cast<float>(byte >> 6 | high << 2));
    } else {
      to.scale[c] = header.scale[c] * static_cast<float>(static_cast<int8_t>(byte));
    }
  }
}

// sums = start + the products of the parts [first, first + count) with the words of one row.
template <int kBits>
KASCADE_INLINE void sum_parts(const uint8_t* w, int first, int count, const int32_t* x,
                              int32_t rows, int32_t start, int32_t* sums) {
  for (int c = 0; c < kBlockChannels; ++c) sums[c] = start;
  for (int part = first; part < first + count; ++part) {
    uint8_t levels[64];
    read_part<kBits>(w, part, levels);
    const int32_t four = x[part * rows];
    const int32_t a = level_of(four, 0), b = level_of(four, 1);
    const int32_t c = level_of(four, 2), d = level_of(four, 3);
    for (int i = 0; i < kBlockChannels; ++i) {
      const uint8_t* own = levels + 4 * i;
      sums[i] += a * own[0] + b * own[1] + c * own[2] + d * own[3];
    }
  }
}

// Adds one group of the inputs of row `row` to its totals.
template <DType kType>
KASCADE_INLINE void add_group(const uint8_t* w, const Scales& header, const PanelTile& tile,
                              int64_t group, int32_t row, float* total) {
  constexpr BlockFormat kFormat = block_format_of(kType);
  constexpr int kHalves = kBlockGroup / kFormat.group;
  const uint8_t* packed_scales = w + block_level_bytes(kFormat.bits);
  const int32_t* x = tile.words + 8 * group * tile.rows + row;
  float term[kBlockChannels] = {};
  Scales scales;
  for (int half = 0; half < kHalves; ++half) {
    int32_t sums[kBlockChannels];
    const int32_t start = tile.starts[(group * kHalves + half) * tile.rows + row];
    sum_parts<kFormat.bits>(w, half * 4, 8 / kHalves, x, tile.rows, start, sums);
    read_group_scales<kType>(packed_scales, half, header, scales);
    for (int c = 0; c < kBlockChannels; ++c) {
      const auto sum = static_cast<float>(sums[c]);
      term[c] = half == 0 ? sum * scales.scale[c] : __builtin_fmaf(sum, scales.scale[c], term[c]);
    }
  }
  const float scale = tile.scales[group * tile.rows + row];
  for (int c = 0; c < kBlockChannels; ++c) total[c] = __builtin_fmaf(term[c], scale, total[c]);
  if constexpr (kFormat.minima) {
    const float level_sum = tile.level_sums[group * tile.rows + row];
    for (int c = 0; c < kBlockChannels; ++c) {
      total[c] = __builtin_fmaf(scales.minimum[c], level_sum, total[c]);
    }
  }
}

template <DType kType>
void block_tile(const PanelTile& tile, const Panel& panel, const PanelOut& to) {
  constexpr BlockFormat kFormat = block_format_of(kType);
  constexpr int64_t kGroups = block_size_of(kType).inputs / kBlockGroup;
  constexpr int64_t kGroupBytes = block_level_bytes(kFormat.bits) + block_scale_bytes(kFormat);
  for (int32_t row = 0; row < tile.rows; ++row) {
    float* sums = reinterpret_cast<float*>(to.sums) + row * kBlockChannels;
    float total[kBlockChannels] = {};
    if (!panel.begins) __builtin_memcpy(total, sums, sizeof(total));
    const uint8_t* w = panel.weights;
    for (int64_t block = 0; block < panel.blocks; ++block) {
      Scales header{};
      if constexpr (kFormat.multiples) read_header<kType>(w, header);
      w += block_header_bytes(kFormat);
      for (int64_t g = 0; g < kGroups; ++g, w += kGroupBytes) {
        add_group<kType>(w, header, tile, block * kGroups + g, row, total);
      }
    }
    if (!panel.ends) {
      __builtin_memcpy(sums, total, sizeof(total));
      continue;
    }
    float* out = to.out + row * to.stride;
    for (int32_t c = 0; c < panel.channels; ++c) out[c] = to.add ? out[c] + total[c] : total[c];
  }
}

}  // namespace

const PanelKernel kBlockKernels[kBlockDTypes] = {
    block_tile<DType::kQ8_0>, block_tile<DType::kQ4_0>, block_tile<DType::kQ4_1>,
    block_tile<DType::kQ5_0>, block_tile<DType::kQ5_1>, block_tile<DType::kQ4_K>,
    block_tile<DType::kQ5_K>, block_tile<DType::kQ6_K>};

void quantize_groups(const float* x, int64_t size, const GroupedRow& row) {
  quantize_each_group(x, size, row, quantize_counting);
}

}  // namespace kascade::cpu::KASCADE_ISA
