#include "tools/convert/gguf_dequantize.h"

#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace kascade::convert {
namespace {

constexpr int kBlock = 32;  // elements in a block of the types without the letter K
// elements in a block of the K types, whose scales are quantised themselves
constexpr int kSuperBlock = 256;

float f16_at(const std::byte* bytes) {
  uint16_t value = 0;
  std::memcpy(&value, bytes, sizeof(value));
  return from_f16(value);
}

int byte_at(const std::byte* bytes, int index) { return std::to_integer<int>(bytes[index]); }
int signed_at(const std::byte* bytes, int index) { return std::to_integer<int8_t>(bytes[index]); }

// Returns element `index` of a block of 32, in which byte i holds element i in its low half and
// element i + 16 in its high half.
int nibble(const std::byte* packed, int index) {
  const int byte = byte_at(packed, index % 16);
  return index < 16 ? byte & 15 : byte >> 4;
}

// Reads the fifth bits of 32 elements from four bytes.
int fifth_bit(const std::byte* packed, int index) {
  return (byte_at(packed, index / 8) >> (index % 8)) & 1;
}

void q8_0(const std::byte* block, float* values) {
  const float scale = f16_at(block);
  for (int i = 0; i < kBlock; ++i) values[i] = scale * static_cast<float>(signed_at(block + 2, i));
}

void q4_0(const std::byte* block, float* values) {
  const float scale = f16_at(block);
  for (int i = 0; i < kBlock; ++i) values[i] = scale * static_cast<float>(nibble(block + 2, i) - 8);
}

void q4_1(const std::byte* block, float* values) {
  const float scale = f16_at(block);
  const float least = f16_at(block + 2);
  for (int i = 0; i < kBlock; ++i) {
    values[i] = scale * static_cast<float>(nibble(block + 4, i)) + least;
  }
}

void q5_0(const std::byte* block, float* values) {
  const float scale = f16_at(block);
  for (int i = 0; i < kBlock; ++i) {
    const int level = nibble(block + 6, i) + 16 * fifth_bit(block + 2, i);
    values[i] = scale * static_cast<float>(level - 16);
  }
}

void q5_1(const std::byte* block, float* values) {
  const float scale = f16_at(block);
  const float least = f16_at(block + 2);
  for (int i = 0; i < kBlock; ++i) {
    const int level = nibble(block + 8, i) + 16 * fifth_bit(block + 4, i);
    values[i] = scale * static_cast<float>(level) + least;
  }
}

// Reads scale and minimum of a group of Q4_K or Q5_K. A super-block has eight groups of 32
// elements, each with a scale and a minimum of six bits. For groups 0–3, bytes 0–3 of the twelve
// bytes hold the scales and bytes 4–7 the minima in their low six bits. For groups 4–7, bytes 8–11
// hold the low four bits of scale and minimum, and the upper two bits are in the upper bits of
// bytes 0–3 (scales) and 4–7 (minima).
struct GroupScale {
  float scale;
  float minimum;
};

GroupScale group_scale(const std::byte* block, int group) {
  const std::byte* packed = block + 4;
  int scale = byte_at(packed, group % 4) & 63;
  int minimum = byte_at(packed, group % 4 + 4) & 63;
  if (group >= 4) {
    const int low = byte_at(packed, group + 4);
    scale = (low & 15) | ((byte_at(packed, group - 4) >> 6) << 4);
    minimum = (low >> 4) | ((byte_at(packed, group) >> 6) << 4);
  }
  return {f16_at(block) * static_cast<float>(scale),
          f16_at(block + 2) * static_cast<float>(minimum)};
}

// Returns element `index` of a super-block. Each run of 32 bytes holds one group in the low halves
// of its bytes and the next group in the high halves.
int super_nibble(const std::byte* packed, int index) {
  const int byte = byte_at(packed, index / 64 * 32 + index % 32);
  return index % 64 < 32 ? byte & 15 : byte >> 4;
}

void q4_k(const std::byte* block, float* values) {
  for (int group = 0; group < 8; ++group) {
    const GroupScale scale = group_scale(block, group);
    for (int i = group * 32; i < group * 32 + 32; ++i) {
      const int level = super_nibble(block + 16, i);
      values[i] = scale.scale * static_cast<float>(level) - scale.minimum;
    }
  }
}

// After the scales there are 32 bytes; bit g of byte i is the fifth bit of element i of group g.
void q5_k(const std::byte* block, float* values) {
  for (int group = 0; group < 8; ++group) {
    const GroupScale scale = group_scale(block, group);
    for (int i = group * 32; i < group * 32 + 32; ++i) {
      const int fifth = (byte_at(block + 16, i % 32) >> group) & 1;
      const int level = super_nibble(block + 48, i) + 16 * fifth;
      values[i] = scale.scale * static_cast<float>(level) - scale.minimum;
    }
  }
}

// A block has two halves of 128 elements. For each half it stores 64 bytes with the low four bits
// (elements 0–63 in the low halves of the bytes, 64–127 in the high halves), 32 bytes with the
// upper two bits (byte i holds those of elements i, i + 32, i + 64 and i + 96), and 8 scales of 16
// elements each. Each of the three parts is stored for both halves before the next part.
void q6_k(const std::byte* block, float* values) {
  const float scale = f16_at(block + 208);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int half = i / 128;
    const int in_half = i % 128;
    const int byte = byte_at(block, half * 64 + in_half % 64);
    const int low = in_half < 64 ? byte & 15 : byte >> 4;
    const int high = (byte_at(block + 128, half * 32 + in_half % 32) >> (in_half / 32 * 2)) & 3;
    const auto group = static_cast<float>(signed_at(block + 192, i / 16));
    values[i] = scale * group * static_cast<float>((low | high << 4) - 32);
  }
}

constexpr GgmlType kTypes[] = {
    {0, "F32", 1, 4, DType::kF32, nullptr},
    {1, "F16", 1, 2, DType::kF16, nullptr},
    {30, "BF16", 1, 2, DType::kBF16, nullptr},
    {8, "Q8_0", kBlock, 34, DType::kF32, q8_0},
    {2, "Q4_0", kBlock, 18, DType::kF32, q4_0},
    {3, "Q4_1", kBlock, 20, DType::kF32, q4_1},
    {6, "Q5_0", kBlock, 22, DType::kF32, q5_0},
    {7, "Q5_1", kBlock, 24, DType::kF32, q5_1},
    {12, "Q4_K", kSuperBlock, 144, DType::kF32, q4_k},
    {13, "Q5_K", kSuperBlock, 176, DType::kF32, q5_k},
    {14, "Q6_K", kSuperBlock, 210, DType::kF32, q6_k},
};

struct TypeName {
  uint32_t id;
  const char* name;
};
// Types that are known by name but not supported.
constexpr TypeName kOtherTypes[] = {
    {4, "Q4_2"},        {5, "Q4_3"},        {9, "Q8_1"},        {10, "Q2_K"},    {11, "Q3_K"},
    {15, "Q8_K"},       {16, "IQ2_XXS"},    {17, "IQ2_XS"},     {18, "IQ3_XXS"}, {19, "IQ1_S"},
    {20, "IQ4_NL"},     {21, "IQ3_S"},      {22, "IQ2_S"},      {23, "IQ4_XS"},  {24, "I8"},
    {25, "I16"},        {26, "I32"},        {27, "I64"},        {28, "F64"},     {29, "IQ1_M"},
    {31, "Q4_0_4_4"},   {32, "Q4_0_4_8"},   {33, "Q4_0_8_8"},   {34, "TQ1_0"},   {35, "TQ2_0"},
    {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"}, {39, "MXFP4"},
};

}  // namespace

const GgmlType* find_ggml_type(uint32_t id) {
  for (const GgmlType& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

std::string ggml_type_name(uint32_t id) {
  if (const GgmlType* type = find_ggml_type(id)) return std::string(type->name);
  for (const TypeName& type : kOtherTypes) {
    if (type.id == id) return type.name;
  }
  return absl::StrCat("type ", id);
}

void dequantize(const GgmlType& type, const std::byte* blocks, int64_t count, std::byte* target) {
  KASCADE_CHECK(count % type.block_elements == 0);
  if (!type.dequantize) {
    std::memcpy(target, blocks, static_cast<size_t>(count * type.block_bytes));
    return;
  }
  std::array<float, kMaxBlockElements> values;
  const auto bytes = static_cast<size_t>(type.block_elements) * sizeof(float);
  for (int64_t block = 0; block < count / type.block_elements; ++block) {
    type.dequantize(blocks + block * type.block_bytes, values.data());
    std::memcpy(target, values.data(), bytes);
    target += bytes;
  }
}

}  // namespace kascade::convert
