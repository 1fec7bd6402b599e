#include "engine/backend/cpu/panel_layout.h"

#include <array>
#include <cstring>
#include <iterator>

#include "engine/backend/cpu/panel_kernels.h"
#include "engine/backend/quantization.h"

namespace kascade::cpu {
namespace {

// The code of each level from -10 to 9; numbers that are no levels have none.
constexpr auto kInt4LevelCodes = [] {
  std::array<uint8_t, 2 * kInt4Offset> codes{};
  for (size_t code = 0; code < std::size(kInt4Levels); ++code) {
    codes[static_cast<size_t>(kInt4Levels[code] + kInt4Offset)] = static_cast<uint8_t>(code);
  }
  return codes;
}();
uint8_t int4_level_code(int8_t level) {
  return kInt4LevelCodes[static_cast<size_t>(level + kInt4Offset)];
}
uint32_t int4_multiple_code(int32_t multiple) {
  const int32_t code =
      multiple > 0 ? multiple - kInt4LeastMultiple : 8 - multiple - kInt4LeastMultiple;
  return static_cast<uint32_t>(code);
}

// Sets one of 16 f16 numbers.
void put_half(uint16_t bits, int64_t channel, uint8_t* to) {
  std::memcpy(to + 2 * channel, &bits, sizeof(bits));
}

// Adds the level of input `i` of a group (panel_kernels.h describes its bytes).
void put_level(int bits, int level, int64_t i, int64_t channel, uint8_t* group) {
  const int64_t four = i / 4, byte = 4 * channel + i % 4;
  if (bits == 8) {
    group[64 * four + byte] = static_cast<uint8_t>(level);
    return;
  }
  uint8_t& low = group[64 * (four % 4) + byte];
  low = static_cast<uint8_t>(low | (level & 15) << (four < 4 ? 0 : 4));
  if (bits == 5) {
    uint8_t& high = group[kBlockNibbleBytes + byte];
    high = static_cast<uint8_t>(high | (level >> 4) << four);
  } else if (bits == 6) {
    uint8_t& high = group[kBlockNibbleBytes + 64 * (four / 4) + byte];
    high = static_cast<uint8_t>(high | (level >> 4) << (2 * (four % 4)));
  }
}

// Writes the scale of a group, and its minimum, in a format without multiples.
void put_group_halves(const BlockRow& row, int64_t group, int64_t channel, uint8_t* to) {
  put_half(row.scales[static_cast<size_t>(group)], channel, to);
  if (!row.minima.empty()) put_half(row.minima[static_cast<size_t>(group)], channel, to + 32);
}

void put_group_multiples(const BlockRow& row, int64_t group, int64_t channel, uint8_t* to) {
  const auto at = static_cast<size_t>(group);
  if (row.minima.empty()) {
    to[channel] = static_cast<uint8_t>(row.multiples[2 * at]);
    to[kBlockChannels + channel] = static_cast<uint8_t>(row.multiples[2 * at + 1]);
    return;
  }
  const int minimum = row.minimum_multiples[at];
  to[channel] = static_cast<uint8_t>(row.multiples[at] | (minimum & 3) << 6);
  uint8_t& high = to[kBlockChannels + channel % 8];
  high = static_cast<uint8_t>(high | (minimum >> 2) << (channel < 8 ? 0 : 4));
}

}  // namespace

PanelLayout panel_layout_of(PanelFormat format) {
  switch (format) {
    case PanelFormat::kBF16:
      return {.channels = kBf16Channels,
              .block_inputs = kBf16Step,
              .block_bytes = kBf16StepBytes,
              .word_inputs = 2};
    case PanelFormat::kInt8:
      return {.channels = kInt8Channels,
              .block_inputs = kInt8Step,
              .block_bytes = kInt8StepBytes,
              .sum_length = kIntegerSumLength,
              .start_length = kIntegerSumLength,
              .offset = kInt8Offset,
              .channel_scales = true};
    case PanelFormat::kInt4:
      return {.channels = kInt4Channels,
              .block_inputs = kInt4BlockInputs,
              .block_bytes = kInt4BlockBytes,
              .sum_length = kIntegerSumLength,
              .start_length = kInt4Group,
              .offset = kInt4Offset,
              .channel_scales = true};
    default:
      break;
  }
  const DType dtype = block_dtype_of(format);
  const BlockFormat block = block_format_of(dtype);
  return {.channels = kBlockChannels,
          .block_inputs = block_size_of(dtype).inputs,
          .block_bytes = block_panel_bytes(dtype),
          .start_length = block.group,
          .scale_length = kBlockGroup,
          .offset = block.offset};
}

// Whoever changes a panel or what surrounds it must increase the version, because files of packed
// weights outlive the program. Blocks are packed at each start, as fast as they are read, and are
// never kept in a file.
std::string_view form_name(PanelFormat format) {
  switch (format) {
    case PanelFormat::kBF16:
      return "bf16-panels-2";
    case PanelFormat::kInt8:
      return "int8-panels-2";
    case PanelFormat::kInt4:
      return "int4-panels-3";
    default:
      return {};
  }
}

void put_bf16(const float* values, int64_t inputs, int64_t channel, uint8_t* panel) {
  uint16_t* pair = reinterpret_cast<uint16_t*>(panel) + channel * kBf16Step;
  for (int64_t input = 0; input < inputs; ++input) {
    pair[input % kBf16Step] = to_bf16(values[input]);
    if (input % kBf16Step == kBf16Step - 1) pair += kBf16Channels * kBf16Step;
  }
}

void put_int8(const int8_t* levels, int64_t inputs, int64_t channel, uint8_t* panel) {
  for (int64_t input = 0; input < inputs; ++input) {
    panel[input / kInt8Step * kInt8StepBytes + channel * kInt8Step + input % kInt8Step] =
        static_cast<uint8_t>(levels[input] + kInt8Offset);
  }
}

void put_int4(const std::vector<int8_t>& levels, const std::vector<int8_t>& multiples,
              int64_t channel, uint8_t* panel) {
  for (size_t g = 0; g < multiples.size(); ++g) {
    const auto group = static_cast<int64_t>(g);
    const int64_t in_block = group % kInt4BlockGroups;
    uint8_t* block = panel + group / kInt4BlockGroups * kInt4BlockBytes;
    uint8_t* bytes = block + in_block * kInt4GroupBytes + channel * 4;
    const int8_t* from = levels.data() + group * kInt4Group;
    for (int64_t i = 0; i < 4; ++i) {
      bytes[i] = static_cast<uint8_t>(int4_level_code(from[i]) | int4_level_code(from[i + 4]) << 4);
    }
    uint8_t& codes = block[kInt4BlockGroups * kInt4GroupBytes + channel * 4 + in_block / 2];
    const uint32_t code = int4_multiple_code(multiples[g]) << (in_block % 2 * 4);
    codes = static_cast<uint8_t>(codes | code);
  }
}

void put_blocks(DType dtype, const BlockRow& row, int64_t channel, uint8_t* panel) {
  const BlockFormat format = block_format_of(dtype);
  const int64_t groups = block_size_of(dtype).inputs / kBlockGroup;
  const int64_t level_bytes = block_level_bytes(format.bits);
  const int64_t group_bytes = level_bytes + block_scale_bytes(format);
  const auto blocks = static_cast<int64_t>(row.scales.size());
  const uint8_t* levels = row.levels.data();
  for (int64_t block = 0; block < blocks; ++block, panel += block_panel_bytes(dtype)) {
    uint8_t* to = panel;
    if (format.multiples) {
      put_group_halves(row, block, channel, to);
      to += block_header_bytes(format);
    }
    for (int64_t g = 0; g < groups; ++g, to += group_bytes, levels += kBlockGroup) {
      for (int64_t i = 0; i < kBlockGroup; ++i) {
        put_level(format.bits, levels[i], i, channel, to);
      }
      if (format.multiples) {
        put_group_multiples(row, block * groups + g, channel, to + level_bytes);
      } else {
        put_group_halves(row, block, channel, to + level_bytes);
      }
    }
  }
}

}  // namespace kascade::cpu
