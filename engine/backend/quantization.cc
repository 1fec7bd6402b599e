#include "engine/backend/quantization.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace kascade {
namespace {

// Adding this to a small float and subtracting it again rounds to the nearest integer, ties to
// even. Unlike std::nearbyint, compilers vectorise it.
constexpr float kFractionless = 0x1.8p23f;
float rounded(float value) { return (value + kFractionless) - kFractionless; }

typedef float Group __attribute__((vector_size(kInt4Group * sizeof(float))));

// The search for the multiple of one group of a channel: its best levels so far and their squared
// error.
struct GroupSearch {
  Group values{};
  Group levels{};
  float multiple = 0;
  float error = std::numeric_limits<float>::infinity();

  void offer(float candidate, float scale) {
    const float step = candidate * scale;
    const Group lowest = Group{} - 8.0f, highest = Group{} + 7.0f;
    Group found = values * (1.0f / step);
    found = (found + kFractionless) - kFractionless;
    found = found < lowest ? lowest : found;
    found = found > highest ? highest : found;
    const Group miss = values - found * step;
    const Group squares = miss * miss;
    float sum = 0;
    for (int64_t i = 0; i < kInt4Group; ++i) sum += squares[i];
    if (!(sum < error)) return;
    error = sum;
    levels = found;
    multiple = candidate;
  }
};

GroupSearch search(const Group& values, float scale) {
  GroupSearch best{.values = values};
  float largest = 0;
  for (int64_t i = 0; i < kInt4Group; ++i) {
    if (std::abs(values[i]) > std::abs(largest)) largest = values[i];
  }
  if (largest == 0) return best;
  for (float level = kInt4Tightest; level <= kInt4Widest; level += kInt4Pace) {
    const float size = std::abs(largest) / (level * scale);
    const float multiple = std::clamp(rounded(size), 1.0f, kInt4LargestMultiple);
    best.offer(largest > 0 ? -multiple : multiple, scale);
    best.offer(largest > 0 ? multiple : -multiple, scale);
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
    std::fill_n(multiples, (size + kInt4Group - 1) / kInt4Group, int8_t{0});
    return largest < kNegligible ? 0.0f : largest;
  }
  // Squares of large values would overflow, so the search runs on values divided by the largest
  // magnitude.
  const float inverse = 1.0f / largest;
  constexpr float kScale = 1.0f / (kInt4Tightest * kInt4LargestMultiple);
  for (int64_t first = 0; first < size; first += kInt4Group) {
    const int64_t count = std::min(kInt4Group, size - first);
    Group group{};
    for (int64_t i = 0; i < count; ++i) group[i] = values[first + i] * inverse;
    const GroupSearch best = search(group, kScale);
    for (int64_t i = 0; i < count; ++i) levels[first + i] = static_cast<int8_t>(best.levels[i]);
    multiples[first / kInt4Group] = static_cast<int8_t>(best.multiple);
  }
  return largest * kScale;
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
