#include "engine/backend/cpu/panel_layout.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <string>

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

void put_word(uint32_t word, uint8_t* to) { std::memcpy(to, &word, sizeof(word)); }

// Writes the 32 levels of a group to the words of one channel (panel_kernels.h describes them).
// Shifts of whole words move no bit from one byte to another, because the bits that would leave a
// byte are masked.
template <int kBits>
void put_levels(const uint8_t* levels, uint8_t* to) {
  uint32_t words[8];  // word p holds the inputs 4p … 4p + 3
  std::memcpy(words, levels, sizeof(words));
  if constexpr (kBits == 8) {
    for (int p = 0; p < 8; ++p) put_word(words[p], to + 64 * p);
    return;
  }
  constexpr uint32_t kLow = 0x0f0f0f0fu;
  for (int p = 0; p < 4; ++p) {
    put_word((words[p] & kLow) | (words[p + 4] & kLow) << 4, to + 64 * p);
  }
  uint8_t* high = to + kBlockNibbleBytes;
  if constexpr (kBits == 5) {
    uint32_t fifths = 0;
    for (int p = 0; p < 8; ++p) fifths |= (words[p] >> 4 & 0x01010101u) << p;
    put_word(fifths, high);
  } else if constexpr (kBits == 6) {
    for (int part = 0; part < 2; ++part) {
      uint32_t upper = 0;
      for (int q = 0; q < 4; ++q) upper |= (words[4 * part + q] >> 4 & 0x03030303u) << (2 * q);
      put_word(upper, high + 64 * part);
    }
  }
}

using LevelWriter = void (*)(const uint8_t* levels, uint8_t* to);
LevelWriter level_writer(int bits) {
  switch (bits) {
    case 4:
      return put_levels<4>;
    case 5:
      return put_levels<5>;
    case 6:
      return put_levels<6>;
    default:
      return put_levels<8>;
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
// weights outlive the program.
std::string form_name(PanelFormat format) {
  switch (format) {
    case PanelFormat::kBF16:
      return "bf16-panels-2";
    case PanelFormat::kInt8:
      return "int8-panels-2";
    case PanelFormat::kInt4:
      return "int4-panels-3";
    default:
      return std::string(name_of(block_dtype_of(format))) + "-panels-1";
  }
}

void put_bf16(const float* values, int64_t inputs, int64_t channel, uint8_t* panel) {
  uint8_t* to = panel + channel * kBf16Step * 2;
  for (int64_t input = 0; input < inputs; input += kBf16Step, to += kBf16StepBytes) {
    const uint32_t second = input + 1 < inputs ? to_bf16(values[input + 1]) : 0u;
    put_word(to_bf16(values[input]) | second << 16, to);
  }
}

void put_int8(const int8_t* levels, int64_t inputs, int64_t channel, uint8_t* panel) {
  uint8_t* to = panel + channel * kInt8Step;
  int64_t input = 0;
  for (; input + kInt8Step <= inputs; input += kInt8Step, to += kInt8StepBytes) {
    uint32_t word;
    std::memcpy(&word, levels + input, sizeof(word));
    put_word(word ^ 0x80808080u, to);  // adds kInt8Offset to each byte
  }
  for (int64_t i = 0; input + i < inputs; ++i) {
    to[i] = static_cast<uint8_t>(levels[input + i] + kInt8Offset);
  }
}

void put_int4(const std::vector<int8_t>& levels, const std::vector<int8_t>& multiples,
              int64_t channel, uint8_t* panel) {
  const auto groups = static_cast<int64_t>(multiples.size());
  const int8_t* from = levels.data();
  for (int64_t first = 0; first < groups; first += kInt4BlockGroups, panel += kInt4BlockBytes) {
    uint32_t codes = 0;
    const int64_t count = std::min<int64_t>(kInt4BlockGroups, groups - first);
    for (int64_t g = 0; g < count; ++g, from += kInt4Group) {
      uint8_t* to = panel + g * kInt4GroupBytes + channel * 4;
      for (int64_t i = 0; i < 4; ++i) {
        to[i] = static_cast<uint8_t>(int4_level_code(from[i]) | int4_level_code(from[i + 4]) << 4);
      }
      codes |= int4_multiple_code(multiples[static_cast<size_t>(first + g)]) << (4 * g);
    }
    put_word(codes, panel + kInt4BlockGroups * kInt4GroupBytes + channel * 4);
  }
}

void put_blocks(DType dtype, const BlockRow& row, int64_t channel, uint8_t* panel) {
  const BlockFormat format = block_format_of(dtype);
  const int64_t groups = block_size_of(dtype).inputs / kBlockGroup;
  const int64_t level_bytes = block_level_bytes(format.bits);
  const int64_t group_bytes = level_bytes + block_scale_bytes(format);
  const auto blocks = static_cast<int64_t>(row.scales.size());
  const LevelWriter put_levels_of_group = level_writer(format.bits);
  const uint8_t* levels = row.levels.data();
  for (int64_t block = 0; block < blocks; ++block, panel += block_panel_bytes(dtype)) {
    uint8_t* to = panel;
    if (format.multiples) {
      put_group_halves(row, block, channel, to);
      to += block_header_bytes(format);
    }
    for (int64_t g = 0; g < groups; ++g, to += group_bytes, levels += kBlockGroup) {
      put_levels_of_group(levels, to + 4 * channel);
      if (format.multiples) {
        put_group_multiples(row, block * groups + g, channel, to + level_bytes);
      } else {
        put_group_halves(row, block, channel, to + level_bytes);
      }
    }
  }
}

}  // namespace kascade::cpu
