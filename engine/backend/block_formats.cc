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

// Element `index` of 32, of which byte i holds element i in its low half and element i + 16 in its
// high half.
int nibble(const std::byte* packed, int index) {
  const int byte = byte_at(packed, index % 16);
  return index < 16 ? byte & 15 : byte >> 4;
}

// Bit `index` of a row of bits, lowest first.
int bit_at(const std::byte* packed, int index) {
  return (byte_at(packed, index / 8) >> (index % 8)) & 1;
}

// Element `index` of 256: each run of 32 bytes holds one group in the low halves of its bytes and
// the next group in the high halves.
int nibble_of_256(const std::byte* packed, int index) {
  const int byte = byte_at(packed, index / 64 * 32 + index % 32);
  return index % 64 < 32 ? byte & 15 : byte >> 4;
}

// The level of Q6_K. A block has two halves of 128 elements. For each half it stores 64 bytes with
// the low four bits (elements 0–63 in the low halves of the bytes, 64–127 in the high halves);
// then, for each half, 32 bytes with the upper two bits (byte i holds those of elements i, i + 32,
// i + 64 and i + 96).
int level_of_q6_k(const std::byte* block, int index) {
  const int half = index / 128, in_half = index % 128;
  const int byte = byte_at(block, half * 64 + in_half % 64);
  const int low = in_half < 64 ? byte & 15 : byte >> 4;
  const int high = (byte_at(block + 128, half * 32 + in_half % 32) >> (in_half / 32 * 2)) & 3;
  return low | high << 4;
}

template <DType kType>
int level_of(const std::byte* block, int index) {
  if constexpr (kType == DType::kQ8_0) return (byte_at(block, 2 + index) + 128) & 255;
  if constexpr (kType == DType::kQ4_0) return nibble(block + 2, index);
  if constexpr (kType == DType::kQ4_1) return nibble(block + 4, index);
  if constexpr (kType == DType::kQ5_0) {
    return nibble(block + 6, index) + 16 * bit_at(block + 2, index);
  }
  if constexpr (kType == DType::kQ5_1) {
    return nibble(block + 8, index) + 16 * bit_at(block + 4, index);
  }
  if constexpr (kType == DType::kQ4_K) return nibble_of_256(block + 16, index);
  if constexpr (kType == DType::kQ5_K) {
    // After the scales there are 32 bytes; bit g of byte i belongs to element i of group g.
    return nibble_of_256(block + 48, index) +
           16 * ((byte_at(block, 16 + index % 32) >> (index / 32)) & 1);
  }
  if constexpr (kType == DType::kQ6_K) return level_of_q6_k(block, index);
}

template <DType kType>
void read_levels(const std::byte* block, uint8_t* levels) {
  for (int i = 0; i < block_size_of(kType).inputs; ++i) {
    levels[i] = static_cast<uint8_t>(level_of<kType>(block, i));
  }
}

using LevelReader = void (*)(const std::byte* block, uint8_t* levels);
constexpr LevelReader kLevelReaders[] = {read_levels<DType::kQ8_0>, read_levels<DType::kQ4_0>,
                                         read_levels<DType::kQ4_1>, read_levels<DType::kQ5_0>,
                                         read_levels<DType::kQ5_1>, read_levels<DType::kQ4_K>,
                                         read_levels<DType::kQ5_K>, read_levels<DType::kQ6_K>};

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
