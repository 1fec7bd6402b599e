#include "engine/base/softmax.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace kascade {
namespace {

constexpr size_t kLanes = 4;    // every x86-64 and ARM processor has vectors of 4 floats
constexpr size_t kAtOnce = 4;   // independent sums, so that additions need not wait
constexpr size_t kBlock = 512;  // values that are summed in f32

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef uint32_t LaneBits __attribute__((vector_size(kLanes * sizeof(uint32_t))));

// eˣ for x ≤ 0, by Cephes' polynomial after the reduction x = n · ln 2 + r.
inline Lanes exp_of(Lanes x) {
  constexpr float kLeast = -87.0f;
  constexpr float kRounder = 12582912.0f;  // 1.5 · 2²³: its addition rounds to an integer
  const auto vanishes = x < kLeast;
  const Lanes clamped = vanishes ? Lanes{} + kLeast : x;
  const Lanes shifted = clamped * 1.44269504f + kRounder;
  const Lanes n = shifted - kRounder;
  const Lanes r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  Lanes p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  const LaneBits power = (std::bit_cast<LaneBits>(shifted) << 23) + (127u << 23);
  return vanishes ? Lanes{} : p * std::bit_cast<Lanes>(power);
}

inline bool is_finite(float value) {
  return (std::bit_cast<uint32_t>(value) & 0x7f800000u) != 0x7f800000u;
}

Lanes load(const float* from) {
  Lanes values;
  std::memcpy(&values, from, sizeof(values));
  return values;
}

double total(Lanes sums) {
  double sum = 0;
  for (size_t lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  return sum;
}

// Σ exp(value − max) over a block of kBlock values.
double block_sum(const float* values, float max) {
  Lanes sums[kAtOnce] = {};
  for (size_t i = 0; i < kBlock; i += kAtOnce * kLanes) {
    for (size_t part = 0; part < kAtOnce; ++part) {
      sums[part] += exp_of(load(values + i + part * kLanes) - max);
    }
  }
  double sum = 0;
  for (const Lanes part : sums) sum += total(part);
  return sum;
}

float largest_value(std::span<const float> values) {
  constexpr size_t kWidth = kAtOnce * kLanes;
  float best[kWidth];
  std::fill_n(best, kWidth, values[0]);
  size_t i = 0;
  for (; i + kWidth <= values.size(); i += kWidth) {
    for (size_t j = 0; j < kWidth; ++j) best[j] = std::max(best[j], values[i + j]);
  }
  for (; i < values.size(); ++i) best[0] = std::max(best[0], values[i]);
  return *std::max_element(best, best + kWidth);
}

}  // namespace

int64_t first_not_finite(std::span<const float> values) {
  uint32_t all = 1;
  for (const float value : values) all &= is_finite(value) ? 1u : 0u;
  if (all != 0) return -1;
  int64_t index = 0;
  while (is_finite(values[static_cast<size_t>(index)])) ++index;
  return index;
}

int64_t largest_of(std::span<const float> values) {
  const float largest = largest_value(values);
  int64_t index = 0;
  while (values[static_cast<size_t>(index)] != largest) ++index;
  return index;
}

double exponential_sum(std::span<const float> values, float max) {
  double sum = 0;
  size_t i = 0;
  for (; i + kBlock <= values.size(); i += kBlock) sum += block_sum(values.data() + i, max);
  for (; i < values.size(); i += kLanes) {
    float some[kLanes];  // lanes after the last value add 0
    std::fill_n(some, kLanes, -std::numeric_limits<float>::infinity());
    std::copy_n(values.data() + i, std::min(values.size() - i, kLanes), some);
    sum += total(exp_of(load(some) - max));
  }
  return sum;
}

}  // namespace kascade
