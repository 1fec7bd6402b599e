// Tests every block format of GGUF, against blocks that the test packs from known levels and scales
// in the published formats, and against blocks whose bytes and values were worked out by hand.
#include "engine/backend/block_formats.h"

#include <bit>
#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using Bytes = std::vector<uint8_t>;

std::mt19937& random() {
  static std::mt19937 generator(7);
  return generator;
}
int draw(int low, int high) { return std::uniform_int_distribution(low, high)(random()); }
std::vector<int> draw_levels(int count, int low, int high) {
  std::vector<int> levels(static_cast<size_t>(count));
  for (int& level : levels) level = draw(low, high);
  return levels;
}

// A scale that f16 has exactly, and its bytes.
float draw_scale() { return static_cast<float>(draw(-2047, 2047)) / 1024; }
void put_f16(Bytes& block, float value) {
  const auto bits = std::bit_cast<uint16_t>(static_cast<_Float16>(value));
  block.push_back(static_cast<uint8_t>(bits & 255));
  block.push_back(static_cast<uint8_t>(bits >> 8));
}

std::vector<float> unpack(DType dtype, const Bytes& bytes) {
  const BlockSize block = block_size_of(dtype);
  const auto blocks = static_cast<int64_t>(bytes.size()) / block.bytes;
  EXPECT_EQ(blocks * block.bytes, static_cast<int64_t>(bytes.size()));
  std::vector<float> values(static_cast<size_t>(blocks * block.inputs));
  dequantize_row(dtype, reinterpret_cast<const std::byte*>(bytes.data()), blocks * block.inputs,
                 values.data());
  return values;
}

// ---- Blocks of 32
// --------------------------------------------------------------------------------

struct Plain {
  DType dtype;
  int bits;        // of a level
  bool has_least;  // a second f16: what level 0 stands for
  int zero_level;  // level that stands for 0 otherwise
};

// Levels in the low four bits: element i < 16 in the low half of byte i, i + 16 in its high half.
// Fifth bits before them: element i is bit i of a 32-bit number.
Bytes pack(const Plain& type, float scale, float least, const std::vector<int>& levels) {
  Bytes block;
  put_f16(block, scale);
  if (type.has_least) put_f16(block, least);
  if (type.bits == 8) {
    for (const int level : levels) block.push_back(static_cast<uint8_t>(level));
    return block;
  }
  if (type.bits == 5) {
    uint32_t fifths = 0;
    for (size_t i = 0; i < 32; ++i) fifths |= static_cast<uint32_t>(levels[i] >> 4) << i;
    for (int i = 0; i < 4; ++i) block.push_back(static_cast<uint8_t>(fifths >> (8 * i)));
  }
  for (size_t i = 0; i < 16; ++i) {
    block.push_back(static_cast<uint8_t>((levels[i] & 15) | (levels[i + 16] & 15) << 4));
  }
  return block;
}

class PlainTypes : public ::testing::TestWithParam<Plain> {};

TEST_P(PlainTypes, GivesBackWhatWasPacked) {
  const Plain& type = GetParam();
  Bytes bytes;
  std::vector<float> expected;
  for (int block = 0; block < 50; ++block) {
    const float scale = draw_scale();
    const float least = draw_scale();
    const auto levels =
        type.bits == 8 ? draw_levels(32, -128, 127) : draw_levels(32, 0, (1 << type.bits) - 1);
    const Bytes packed = pack(type, scale, least, levels);
    bytes.insert(bytes.end(), packed.begin(), packed.end());
    for (const int level : levels) {
      expected.push_back(type.has_least ? scale * static_cast<float>(level) + least
                                        : scale * static_cast<float>(level - type.zero_level));
    }
  }
  const auto values = unpack(type.dtype, bytes);
  ASSERT_EQ(values.size(), expected.size());
  // A fused multiply-add may round the sum once instead of twice.
  for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], expected[i], 1e-5) << i;
}

INSTANTIATE_TEST_SUITE_P(All, PlainTypes,
                         ::testing::Values(Plain{DType::kQ8_0, 8, false, 0},
                                           Plain{DType::kQ4_0, 4, false, 8},
                                           Plain{DType::kQ4_1, 4, true, 0},
                                           Plain{DType::kQ5_0, 5, false, 16},
                                           Plain{DType::kQ5_1, 5, true, 0}),
                         [](const auto& plain) { return std::string(name_of(plain.param.dtype)); });

// ---- Super-blocks of 256
// -------------------------------------------------------------------------

// Eight scales and eight minima of six bits in twelve bytes.
Bytes pack_scales(const std::vector<int>& scales, const std::vector<int>& minima) {
  Bytes packed(12);
  for (size_t i = 0; i < 4; ++i) {
    packed[i] = static_cast<uint8_t>(scales[i] | (scales[i + 4] >> 4) << 6);
    packed[i + 4] = static_cast<uint8_t>(minima[i] | (minima[i + 4] >> 4) << 6);
    packed[i + 8] = static_cast<uint8_t>((scales[i + 4] & 15) | (minima[i + 4] & 15) << 4);
  }
  return packed;
}

// Q4_K and Q5_K, told apart by the bits of a level.
void check_k(DType dtype, int bits) {
  for (int round = 0; round < 20; ++round) {
    const float scale = draw_scale();
    const float minimum = draw_scale();
    const auto scales = draw_levels(8, 0, 63);
    const auto minima = draw_levels(8, 0, 63);
    const auto levels = draw_levels(256, 0, (1 << bits) - 1);
    Bytes block;
    put_f16(block, scale);
    put_f16(block, minimum);
    const Bytes packed = pack_scales(scales, minima);
    block.insert(block.end(), packed.begin(), packed.end());
    for (size_t i = 0; i < 32 && bits == 5; ++i) {
      int fifths = 0;
      for (size_t group = 0; group < 8; ++group) {
        fifths |= (levels[group * 32 + i] >> 4) << group;
      }
      block.push_back(static_cast<uint8_t>(fifths));
    }
    for (size_t pair = 0; pair < 4; ++pair) {
      for (size_t i = 0; i < 32; ++i) {
        const int low = levels[pair * 64 + i] & 15;
        const int high = levels[pair * 64 + 32 + i] & 15;
        block.push_back(static_cast<uint8_t>(low | high << 4));
      }
    }
    const auto values = unpack(dtype, block);
    ASSERT_EQ(values.size(), 256u);
    for (size_t i = 0; i < 256; ++i) {
      const double expected =
          double{scale} * scales[i / 32] * levels[i] - double{minimum} * minima[i / 32];
      EXPECT_NEAR(values[i], expected, 1e-3) << i;  // values up to 4,000 in f32
    }
  }
}

TEST(SuperBlocks, Q4KGivesBackWhatWasPacked) { check_k(DType::kQ4_K, 4); }
TEST(SuperBlocks, Q5KGivesBackWhatWasPacked) { check_k(DType::kQ5_K, 5); }

TEST(SuperBlocks, Q6KGivesBackWhatWasPacked) {
  for (int round = 0; round < 20; ++round) {
    const float scale = draw_scale();
    const auto scales = draw_levels(16, -128, 127);
    const auto levels = draw_levels(256, 0, 63);
    Bytes block;
    for (const size_t half : {0u, 128u}) {
      for (size_t i = half; i < half + 64; ++i) {
        block.push_back(static_cast<uint8_t>((levels[i] & 15) | (levels[i + 64] & 15) << 4));
      }
    }
    for (const size_t half : {0u, 128u}) {
      for (size_t i = half; i < half + 32; ++i) {
        int upper = 0;
        for (size_t quarter = 0; quarter < 4; ++quarter) {
          upper |= (levels[i + 32 * quarter] >> 4) << (2 * quarter);
        }
        block.push_back(static_cast<uint8_t>(upper));
      }
    }
    for (const int group : scales) block.push_back(static_cast<uint8_t>(group));
    put_f16(block, scale);
    const auto values = unpack(DType::kQ6_K, block);
    ASSERT_EQ(values.size(), 256u);
    for (size_t i = 0; i < 256; ++i) {
      const double expected = double{scale} * scales[i / 16] * (levels[i] - 32);
      EXPECT_NEAR(values[i], expected, 2e-3) << i;  // values up to 8,000 in f32
    }
  }
}

// ---- By hand
// -------------------------------------------------------------------------------------

constexpr uint8_t kOne[2] = {0x00, 0x3c};   // 1.0 in f16
constexpr uint8_t kHalf[2] = {0x00, 0x38};  // 0.5

TEST(ByHand, Q4_0) {
  Bytes block(18, 0x88);  // all levels are 8, which is 0
  std::memcpy(block.data(), kHalf, 2);
  block[2] = 0xf0;  // element 0 is level 0, element 16 level 15
  block[17] = 0x1a;
  const auto values = unpack(DType::kQ4_0, block);
  EXPECT_EQ(values[0], -4);
  EXPECT_EQ(values[16], 3.5);
  EXPECT_EQ(values[15], 1);
  EXPECT_EQ(values[31], -3.5);
  EXPECT_EQ(values[1], 0);
}

TEST(ByHand, Q5_0) {
  Bytes block(22, 0);
  std::memcpy(block.data(), kOne, 2);
  block[2] = 0x02;  // fifth bit of element 1
  block[5] = 0x80;  // of element 31
  block[6 + 15] = 0x30;
  const auto values = unpack(DType::kQ5_0, block);
  EXPECT_EQ(values[0], -16);
  EXPECT_EQ(values[1], 0);
  EXPECT_EQ(values[31], 3);
}

TEST(ByHand, Q4_K) {
  Bytes block(144, 0);
  std::memcpy(block.data(), kOne, 2);
  std::memcpy(block.data() + 2, kHalf, 2);
  block[4] = 0x80 | 3;    // group 0: scale 3; group 4: upper bits of the scale 2
  block[8] = 0x40 | 4;    // group 0: minimum 4; group 4: upper bits of the minimum 1
  block[12] = 0x21;       // group 4: scale 32 + 1, minimum 16 + 2
  block[16] = 0x05;       // element 0
  block[16 + 64] = 0x07;  // element 128, the first of group 4
  const auto values = unpack(DType::kQ4_K, block);
  EXPECT_EQ(values[0], 3 * 5 - 2);
  EXPECT_EQ(values[1], -2);
  EXPECT_EQ(values[32], 0);  // group 1 has no scale
  EXPECT_EQ(values[128], 33 * 7 - 9);
  EXPECT_EQ(values[129], -9);
}

TEST(ByHand, Q6_K) {
  Bytes block(210, 0);
  std::memcpy(block.data() + 208, kHalf, 2);
  block[192] = 2;          // elements 0–15
  block[192 + 13] = 0xff;  // elements 208–223: −1
  block[0] = 0x01;
  block[128] = 0x02;            // element 0: 1 + 32
  block[64 + 16] = 0xf0;        // element 208 = 128 + 64 + 16: low bits 15
  block[128 + 32 + 16] = 0x10;  // its upper bits: 1
  const auto values = unpack(DType::kQ6_K, block);
  EXPECT_EQ(values[0], 0.5 * 2 * 1);
  EXPECT_EQ(values[1], 0.5 * 2 * -32);
  EXPECT_EQ(values[208], -0.5 * (15 + 16 - 32));
  EXPECT_EQ(values[32], 0);
}

TEST(BlockNames, AreThoseOfTheFormat) {
  EXPECT_EQ(block_dtype_named("Q4_K"), DType::kQ4_K);
  EXPECT_EQ(block_dtype_named("Q8_0"), DType::kQ8_0);
  for (const char* other : {"Q2_K", "q4_k", "F32", ""}) {
    EXPECT_EQ(block_dtype_named(other), std::nullopt) << other;
  }
}

}  // namespace
}  // namespace kascade
