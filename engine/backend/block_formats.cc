#include "engine/backend/block_formats.h"

#include <cstring>

#include "engine/base/check.h"

namespace kascade {
namespace {

int byte_at(const std::byte* bytes, int64_t index) { return std::to_integer<int>(bytes[index]); }

uint16_t half_at(const std::byte* bytes) {
  uint16_t value = 0;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

// The readers of levels are plain loops over runs of 16 or 32 bytes, which compilers vectorise.
// What they write never overlaps what they read.
uint8_t low_half(std::byte packed) { return std::to_integer<uint8_t>(packed & std::byte{15}); }
uint8_t high_half(std::byte packed) { return std::to_integer<uint8_t>(packed >> 4); }

// 32 levels from 16 bytes: byte i holds level i in its low half and level i + 16 in its high half.
void read_32_nibbles(const std::byte* __restrict packed, uint8_t* __restrict levels) {
  for (int i = 0; i < 16; ++i) {
    levels[i] = low_half(packed[i]);
    levels[i + 16] = high_half(packed[i]);
  }
}

// 64 levels from 32 bytes: the first 32 in the low halves of the bytes, the others in their high
// halves.
void read_64_nibbles(const std::byte* __restrict packed, uint8_t* __restrict levels) {
  for (int i = 0; i < 32; ++i) {
    levels[i] = low_half(packed[i]);
    levels[i + 32] = high_half(packed[i]);
  }
}

// Adds the fifth bit of 32 levels: that of level i is bit i of a row of bits, lowest first.
void add_fifth_bits(const std::byte* __restrict packed, uint8_t* __restrict levels) {
  for (int byte = 0; byte < 4; ++byte) {
    const int bits = byte_at(packed, byte);
    for (int i = 0; i < 8; ++i) {
      levels[8 * byte + i] = static_cast<uint8_t>(levels[8 * byte + i] | ((bits >> i) & 1) << 4);
    }
  }
}

// Adds the fifth bit of 256 levels from 32 bytes: bit g of byte i belongs to level i of group g.
void add_fifth_bits_of_groups(const std::byte* __restrict packed, uint8_t* __restrict levels) {
  for (int group = 0; group < 8; ++group) {
    for (int i = 0; i < 32; ++i) {
      const auto bit = static_cast<uint8_t>((byte_at(packed, i) >> group) & 1);
      levels[32 * group + i] = static_cast<uint8_t>(levels[32 * group + i] | bit << 4);
    }
  }
}

// Half a block of Q6_K, 128 levels. 64 bytes hold their low four bits, levels 0–63 in the low
// halves of the bytes and 64–127 in the high halves. 32 bytes hold the upper two bits: byte i those
// of the levels i, i + 32, i + 64 and i + 96.
void read_128_of_q6_k(const std::byte* __restrict low, const std::byte* __restrict high,
                      uint8_t* __restrict levels) {
  for (int i = 0; i < 32; ++i) {
    const auto upper = std::to_integer<uint8_t>(high[i]);
    levels[i] = static_cast<uint8_t>(low_half(low[i]) | (upper & 3) << 4);
    levels[i + 32] = static_cast<uint8_t>(low_half(low[i + 32]) | ((upper >> 2) & 3) << 4);
    levels[i + 64] = static_cast<uint8_t>(high_half(low[i]) | ((upper >> 4) & 3) << 4);
    levels[i + 96] = static_cast<uint8_t>(high_half(low[i + 32]) | (upper >> 6) << 4);
  }
}

void read_q8_0(const std::byte* __restrict block, uint8_t* __restrict levels) {
  for (int i = 0; i < 32; ++i) levels[i] = std::to_integer<uint8_t>(block[2 + i] ^ std::byte{128});
}

// Where the levels of a block of 32 are: bits behind the scale and the minimum, if there is one.
template <int kBitsAt, int kNibblesAt>
void read_q5(const std::byte* block, uint8_t* levels) {
  read_32_nibbles(block + kNibblesAt, levels);
  add_fifth_bits(block + kBitsAt, levels);
}

template <int kNibblesAt>
void read_q4(const std::byte* block, uint8_t* levels) {
  read_32_nibbles(block + kNibblesAt, levels);
}

void read_q4_k(const std::byte* block, uint8_t* levels) {
  for (int run = 0; run < 4; ++run) read_64_nibbles(block + 16 + 32 * run, levels + 64 * run);
}

// 32 bytes with the fifth bits stand between the scales and the other bits.
void read_q5_k(const std::byte* block, uint8_t* levels) {
  for (int run = 0; run < 4; ++run) read_64_nibbles(block + 48 + 32 * run, levels + 64 * run);
  add_fifth_bits_of_groups(block + 16, levels);
}

void read_q6_k(const std::byte* block, uint8_t* levels) {
  read_128_of_q6_k(block, block + 128, levels);
  read_128_of_q6_k(block + 64, block + 160, levels + 128);
}

using LevelReader = void (*)(const std::byte* block, uint8_t* levels);
constexpr LevelReader kLevelReaders[] = {read_q8_0,     read_q4<2>, read_q4<4>, read_q5<2, 6>,
                                         read_q5<4, 8>, read_q4_k,  read_q5_k,  read_q6_k};

// Scale and minimum of one of the eight groups of Q4_K and Q5_K, six bits each. For groups 0–3,
// bytes 0–3 of twelve hold the scales and bytes 4–7 the minima in their low six bits. For groups
// 4–7, bytes 8–11 hold the low four bits of scale and minimum; their upper two bits are in the
// upper bits of bytes 0–3 (scales) and 4–7 (minima).
void read_multiples(const std::byte* packed, int group, int8_t& scale, int8_t& minimum) {
  if (group < 4) {
    scale = static_cast<int8_t>(byte_at(packed, group) & 63);
    minimum = static_cast<int8_t>(byte_at(packed, group + 4) & 63);
    return;
  }
  const int low = byte_at(packed, group + 4);
  scale = static_cast<int8_t>((low & 15) | ((byte_at(packed, group - 4) >> 6) << 4));
  minimum = static_cast<int8_t>((low >> 4) | ((byte_at(packed, group) >> 6) << 4));
}

void read_scales(DType dtype, const std::byte* block, int64_t index, BlockRow& out) {
  const auto at = static_cast<size_t>(index);
  if (dtype == DType::kQ6_K) {
    out.scales[at] = half_at(block + 208);
    for (size_t i = 0; i < 16; ++i) {
      out.multiples[16 * at + i] = std::to_integer<int8_t>(block[192 + i]);
    }
    return;
  }
  out.scales[at] = half_at(block);
  if (!out.minima.empty()) out.minima[at] = half_at(block + 2);
  if (out.multiples.empty()) return;
  for (size_t i = 0; i < 8; ++i) {
    read_multiples(block + 4, static_cast<int>(i), out.multiples[8 * at + i],
                   out.minimum_multiples[8 * at + i]);
  }
}

}  // namespace

std::optional<DType> block_dtype_named(std::string_view name) {
  for (int i = static_cast<int>(DType::kQ8_0); i <= static_cast<int>(DType::kQ6_K); ++i) {
    if (name == name_of(static_cast<DType>(i))) return static_cast<DType>(i);
  }
  return std::nullopt;
}

float BlockRow::scale(int64_t group) const {
  const float scale = from_f16(scales[static_cast<size_t>(group / groups_per_block())]);
  return multiples.empty() ? scale : scale * multiples[static_cast<size_t>(group)];
}

float BlockRow::minimum(int64_t group) const {
  if (minima.empty()) return 0;
  const float minimum = from_f16(minima[static_cast<size_t>(group / groups_per_block())]);
  return multiples.empty() ? minimum : -(minimum * minimum_multiples[static_cast<size_t>(group)]);
}

void read_block_row(DType dtype, const std::byte* row, int64_t cols, BlockRow& out) {
  const BlockFormat format = block_format_of(dtype);
  const BlockSize size = block_size_of(dtype);
  KASCADE_CHECK(cols % size.inputs == 0);
  const auto blocks = static_cast<size_t>(cols / size.inputs);
  const auto groups = static_cast<size_t>(cols / format.group);
  out.levels.resize(static_cast<size_t>(cols));
  out.scales.resize(blocks);
  out.minima.resize(format.minima ? blocks : 0);
  out.multiples.resize(format.multiples ? groups : 0);
  out.minimum_multiples.resize(format.multiples && format.minima ? groups : 0);
  const LevelReader read = kLevelReaders[static_cast<int>(dtype) - static_cast<int>(DType::kQ8_0)];
  uint8_t* levels = out.levels.data();
  for (size_t block = 0; block < blocks; ++block, row += size.bytes, levels += size.inputs) {
    read_scales(dtype, row, static_cast<int64_t>(block), out);
    read(row, levels);
  }
}

void dequantize_row(DType dtype, const std::byte* row, int64_t cols, float* values) {
  const BlockFormat format = block_format_of(dtype);
  BlockRow parts;
  read_block_row(dtype, row, cols, parts);
  const uint8_t* levels = parts.levels.data();
  for (int64_t group = 0; group < cols / format.group; ++group) {
    const float scale = parts.scale(group), minimum = parts.minimum(group);
    for (int64_t i = group * format.group; i < (group + 1) * format.group; ++i) {
      values[i] = scale * static_cast<float>(levels[i] - format.offset) + minimum;
    }
  }
}

}  // namespace kascade
