// Tests the bytes of packed weights: reads every number of a panel by the description in
// panel_kernels.h, bit by bit, and compares it with what was packed.
#include "engine/backend/cpu/panel_layout.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "engine/backend/block_formats.h"
#include "engine/backend/cpu/panel_kernels.h"
#include "engine/backend/quantization.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/random_blocks.h"

namespace kascade::testing {
namespace {

using cpu::kBlockChannels;

using Panel = std::vector<uint8_t>;

int draw(std::mt19937& random, int low, int high) {
  return std::uniform_int_distribution(low, high)(random);
}

uint16_t half_at(const uint8_t* halves, int64_t index) {
  uint16_t bits = 0;
  std::memcpy(&bits, halves + 2 * index, sizeof(bits));
  return bits;
}

// The level of input `i` of a group of 32.
int level_in_group(int bits, const uint8_t* group, int64_t channel, int64_t i) {
  const int64_t four = i / 4, byte = 4 * channel + i % 4;
  if (bits == 8) return group[64 * four + byte];
  const int low = group[64 * (four % 4) + byte] >> (four < 4 ? 0 : 4) & 15;
  const uint8_t* above = group + 256;
  if (bits == 5) return low | (above[byte] >> four & 1) << 4;
  if (bits == 6) return low | (above[64 * (four / 4) + byte] >> (2 * (four % 4)) & 3) << 4;
  return low;
}

class BlockPanels : public ::testing::TestWithParam<DType> {
 protected:
  BlockPanels() {
    std::mt19937 random(23);
    weights_ = random_blocks(GetParam(), kBlockChannels, blocks_ * size_.inputs, random);
    // The channels come in another order, because none may disturb what is there already.
    for (int64_t i = 0; i < kBlockChannels; ++i) {
      const int64_t channel = (7 * i + 3) % kBlockChannels;
      BlockRow& row = rows_[static_cast<size_t>(channel)];
      read_block_row(GetParam(), weights_.view().row<std::byte>(channel), blocks_ * size_.inputs,
                     row);
      cpu::put_blocks(GetParam(), row, channel, panel_.data());
    }
  }

  void expect_scales(const BlockRow& row, int64_t group, int64_t channel, const uint8_t* to) {
    const auto at = static_cast<size_t>(group);
    if (!format_.multiples) {
      ASSERT_EQ(half_at(to, channel), row.scales[at]);
      const bool minima = format_.minima;
      ASSERT_EQ(minima ? half_at(to + 32, channel) : 0, minima ? row.minima[at] : 0);
    } else if (!format_.minima) {
      ASSERT_EQ(static_cast<int8_t>(to[channel]), row.multiples[2 * at]);
      ASSERT_EQ(static_cast<int8_t>(to[16 + channel]), row.multiples[2 * at + 1]);
    } else {
      const int upper = to[16 + channel % 8] >> (channel < 8 ? 0 : 4) & 15;
      ASSERT_EQ(to[channel] & 63, row.multiples[at]);
      ASSERT_EQ(upper << 2 | to[channel] >> 6, row.minimum_multiples[at]);
    }
  }

  void expect_block(int64_t block, int64_t channel) {
    const BlockRow& row = rows_[static_cast<size_t>(channel)];
    const uint8_t* at = panel_.data() + block * cpu::block_panel_bytes(GetParam());
    if (format_.multiples) {
      ASSERT_EQ(half_at(at, channel), row.scales[static_cast<size_t>(block)]);
      if (format_.minima) {
        ASSERT_EQ(half_at(at + 32, channel), row.minima[static_cast<size_t>(block)]);
      }
      at += cpu::block_header_bytes(format_);
    }
    const int64_t groups = size_.inputs / kBlockGroup;
    for (int64_t g = block * groups; g < (block + 1) * groups; ++g) {
      for (int64_t i = 0; i < kBlockGroup; ++i) {
        ASSERT_EQ(level_in_group(format_.bits, at, channel, i),
                  row.levels[static_cast<size_t>(g * kBlockGroup + i)]);
      }
      at += cpu::block_level_bytes(format_.bits);
      expect_scales(row, g, channel, at);
      at += cpu::block_scale_bytes(format_);
    }
  }

  const BlockFormat format_ = block_format_of(GetParam());
  const BlockSize size_ = block_size_of(GetParam());
  const int64_t blocks_ = 3;
  HostBuffer weights_{};
  std::array<BlockRow, kBlockChannels> rows_{};
  Panel panel_ = Panel(static_cast<size_t>(blocks_ * cpu::block_panel_bytes(GetParam())));
};

// As many bits as these numbers have, so that no bit of the panel goes unread.
TEST_P(BlockPanels, HoldEveryNumberInItsPlace) {
  for (int64_t channel = 0; channel < kBlockChannels; ++channel) {
    for (int64_t block = 0; block < blocks_; ++block) {
      expect_block(block, channel);
      if (HasFatalFailure()) FAIL() << "channel " << channel << ", block " << block;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, BlockPanels, ::testing::ValuesIn(kAllBlockDTypes),
                         [](const auto& dtype) { return std::string(name_of(dtype.param)); });

TEST(PanelLayout, Int8LevelsStandInFours) {
  std::mt19937 random(5);
  for (const int64_t inputs : {1, 4, 7, 130}) {
    const int64_t steps = (inputs + 3) / 4;
    Panel panel(static_cast<size_t>(steps * cpu::kInt8StepBytes), 77);
    std::vector<int8_t> levels(static_cast<size_t>(inputs));
    for (int8_t& level : levels) level = static_cast<int8_t>(draw(random, -127, 127));
    cpu::put_int8(levels.data(), inputs, 5, panel.data());
    int64_t others = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(panel.size()); ++i) {
      const int64_t input = i / 128 * 4 + i % 4;
      const uint8_t found = panel[static_cast<size_t>(i)];
      if (i % 128 / 4 == 5 && input < inputs) {
        ASSERT_EQ(found - 128, levels[static_cast<size_t>(input)]) << input << " of " << inputs;
      } else {
        ASSERT_EQ(found, 77) << i;
        ++others;
      }
    }
    EXPECT_EQ(others, static_cast<int64_t>(panel.size()) - inputs);
  }
}

// Three blocks of which the last is not complete, in two channels.
TEST(PanelLayout, Int4CodesStandInGroups) {
  constexpr size_t kGroups = 19;
  std::mt19937 random(6);
  Panel panel(3 * cpu::kInt4BlockBytes);
  for (const int64_t channel : {21, 3}) {
    std::vector<int8_t> levels(kGroups * 8), multiples(kGroups);
    for (int8_t& level : levels) level = kInt4Levels[draw(random, 0, 15)];
    for (int8_t& multiple : multiples) {
      multiple = static_cast<int8_t>(draw(random, 5, 12) * (draw(random, 0, 1) == 0 ? 1 : -1));
    }
    cpu::put_int4(levels, multiples, channel, panel.data());
    for (size_t g = 0; g < kGroups; ++g) {
      const uint8_t* block = panel.data() + g / 8 * cpu::kInt4BlockBytes;
      for (size_t i = 0; i < 8; ++i) {
        const uint8_t byte = block[g % 8 * 128 + static_cast<size_t>(channel) * 4 + i % 4];
        ASSERT_EQ(kInt4Levels[byte >> (i < 4 ? 0 : 4) & 15], levels[8 * g + i]) << g << " " << i;
      }
      const uint8_t pair = block[1024 + static_cast<size_t>(channel) * 4 + g % 8 / 2];
      const int code = pair >> (g % 2 * 4) & 15;
      ASSERT_EQ(code < 8 ? code + 5 : -(code - 3), multiples[g]) << g;
    }
  }
  // Each channel has a byte for two levels of 19 groups, and half a byte per multiple.
  EXPECT_EQ(std::count_if(panel.begin() + 2 * cpu::kInt4BlockBytes + 3 * 128,
                          panel.begin() + 2 * cpu::kInt4BlockBytes + 1024,
                          [](uint8_t byte) { return byte != 0; }),
            0);
}

TEST(PanelLayout, Bf16ValuesStandInPairs) {
  for (const int64_t inputs : {2, 9}) {
    Panel panel(static_cast<size_t>((inputs + 1) / 2 * cpu::kBf16StepBytes));
    std::vector<float> values(static_cast<size_t>(inputs));
    for (size_t i = 0; i < values.size(); ++i) values[i] = 1.1f * static_cast<float>(i + 1);
    cpu::put_bf16(values.data(), inputs, 30, panel.data());
    for (int64_t i = 0; i < inputs; ++i) {
      const uint8_t* pair = panel.data() + i / 2 * cpu::kBf16StepBytes + 30 * 4;
      ASSERT_EQ(half_at(pair, i % 2), to_bf16(values[static_cast<size_t>(i)])) << i;
    }
  }
}

// By the definition of the format instead of the compiler's conversion.
double value_of_f16(int bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 == 0 ? magnitude : -magnitude;
}

TEST(F16, EveryNumberBecomesTheSameF32) {
  for (int bits = 0; bits < 1 << 16; ++bits) {
    const float found = from_f16(static_cast<uint16_t>(bits));
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31 && fraction != 0) {
      const uint32_t quiet = 0x7fc00000u | static_cast<uint32_t>(fraction) << 13;
      const uint32_t sign = static_cast<uint32_t>(bits >> 15) << 31;
      ASSERT_EQ(std::bit_cast<uint32_t>(found), quiet | sign) << bits;
    } else if (exponent == 31) {
      ASSERT_TRUE(std::isinf(found) && std::signbit(found) == (bits >> 15 == 1)) << bits;
    } else {
      ASSERT_EQ(found, value_of_f16(bits)) << bits;
      ASSERT_EQ(std::signbit(found), bits >> 15 == 1) << bits;
    }
  }
}

}  // namespace
}  // namespace kascade::testing
