#include "engine/backend/quantization.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

namespace kascade {
namespace {

// Adding this to a small float and subtracting it again rounds to the nearest integer, ties to
// even. Unlike std::nearbyint, compilers vectorise it.
constexpr float kFractionless = 0x1.8p23f;
float rounded(float value) { return (value + kFractionless) - kFractionless; }

using Group = std::array<float, kInt4Group>;

// Whole numbers from -6 to 5, even ones below and odd ones above.
float nearest_level(float value) {
  const float odd = value > 0 ? 1.0f : 0.0f;
  const float coarse = rounded((value - odd) * 0.5f) * 2.0f + odd;
  const float level = value > 5.0f || value < -5.5f ? coarse : rounded(value);
  return level < -10.0f ? -10.0f : level > 9.0f ? 9.0f : level;
}

// The search for the multiple of one group, whose values are in units of the channel's scale: the
// best levels so far and their squared error.
struct GroupSearch {
  Group values{};
  Group levels{};
  float multiple = 0;
  float error = std::numeric_limits<float>::infinity();

  void offer(float candidate) {
    const float inverse = 1.0f / candidate;
    Group found;
    float sum = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      found[i] = nearest_level(values[i] * inverse);
      const float miss = values[i] - found[i] * candidate;
      sum += miss * miss;
    }
    if (!(sum < error)) return;
    error = sum;
    levels = found;
    multiple = candidate;
  }
};

GroupSearch search(const Group& values) {
  GroupSearch best{.values = values};
  for (int32_t multiple = kInt4LeastMultiple; multiple <= kInt4LargestMultiple; ++multiple) {
    best.offer(static_cast<float>(multiple));
    best.offer(static_cast<float>(-multiple));
  }
  return best;
}

void rotate_block(float* values, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    if (changes_sign(i)) values[i] = -values[i];
  }
  for (int64_t distance = 1; distance < size; distance *= 2) {
    for (int64_t i = 0; i < size; ++i) {
      if ((i & distance) != 0) continue;
      const float first = values[i], second = values[i + distance];
      values[i] = first + second;
      values[i + distance] = first - second;
    }
  }
  // The size is a power of 4, so that this division is exact.
  const float root = std::sqrt(static_cast<float>(size));
  for (int64_t i = 0; i < size; ++i) values[i] /= root;
}

}  // namespace

float largest_magnitude(const float* values, int64_t size) {
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < size; ++i) {
    const float magnitude = std::abs(values[i]);
    finite &= magnitude <= std::numeric_limits<float>::max();
    largest = magnitude > largest ? magnitude : largest;
  }
  return finite ? largest : std::numeric_limits<float>::quiet_NaN();
}

void rotate_inputs(float* values, int64_t size) {
  int64_t block = kRotationBlock;
  for (int64_t first = 0; first < size; first += block) {
    while (block > size - first) block /= 4;
    rotate_block(values + first, block);
  }
}

float quantize_int8(const float* values, int64_t size, int8_t* levels) {
  const float largest = largest_magnitude(values, size);
  if (!(largest >= kNegligible)) {
    std::fill_n(levels, size, int8_t{0});
    return largest < kNegligible ? 0.0f : largest;
  }
  const float inverse = 127.0f / largest;
  for (int64_t i = 0; i < size; ++i) {
    levels[i] = static_cast<int8_t>(rounded(values[i] * inverse));
  }
  return largest / 127.0f;
}

float quantize_int4(const float* values, int64_t size, int8_t* levels, int8_t* multiples) {
  const float largest = largest_magnitude(values, size);
  if (!(largest >= kNegligible)) {
    std::fill_n(levels, size, int8_t{0});
    std::fill_n(multiples, (size + kInt4Group - 1) / kInt4Group, int8_t{kInt4LeastMultiple});
    return largest < kNegligible ? 0.0f : largest;
  }
  const float inverse = kInt4LargestStep / largest;
  for (int64_t first = 0; first < size; first += kInt4Group) {
    const int64_t count = std::min(kInt4Group, size - first);
    Group group{};
    for (int64_t i = 0; i < count; ++i) group[i] = values[first + i] * inverse;
    const GroupSearch best = search(group);
    for (int64_t i = 0; i < count; ++i) levels[first + i] = static_cast<int8_t>(best.levels[i]);
    multiples[first / kInt4Group] = static_cast<int8_t>(best.multiple);
  }
  return largest / kInt4LargestStep;
}

void quantize_int8_groups(const float* values, int64_t size, int64_t group, int8_t* levels,
                          float* scales) {
  for (int64_t first = 0; first < size; first += group) {
    *scales++ = quantize_int8(values + first, std::min(group, size - first), levels + first);
  }
}

void write_int8_row(const float* values, Tensor to, int64_t row) {
  auto* levels = to.row<int8_t>(row);
  const float scale = quantize_int8(values, to.cols, levels);
  std::memcpy(levels + to.cols, &scale, sizeof(scale));
}

void read_int8_row(Tensor from, int64_t row, float* values) {
  const auto* levels = from.row<int8_t>(row);
  float scale;
  std::memcpy(&scale, levels + from.cols, sizeof(scale));
  for (int64_t i = 0; i < from.cols; ++i) values[i] = static_cast<float>(levels[i]) * scale;
}

}  // namespace kascade
