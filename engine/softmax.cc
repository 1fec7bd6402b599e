#include "engine/softmax.h"

#include <bit>
#include <cmath>

namespace kascade {
namespace {

constexpr size_t kLanes = 16;   // results side by side, for vector instructions
constexpr size_t kBlock = 512;  // values whose sum stays in f32

// Cephes' polynomial after x = n · ln 2 + r, for x ≤ 0.
inline float exp_of(float x) {
  constexpr float kLeast = -87.0f;
  constexpr float kRounder = 12582912.0f;  // 1.5 · 2²³: adding it leaves the integer in the low bits
  const float clamped = x < kLeast ? kLeast : x;
  const float shifted = clamped * 1.44269504f + kRounder;
  const float n = shifted - kRounder;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  const float power = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + (127u << 23));
  return x < kLeast ? 0 : p * power;
}

inline bool is_finite(float value) {
  return (std::bit_cast<uint32_t>(value) & 0x7f800000u) != 0x7f800000u;
}

// Of whole lanes.
double block_sum(const float* values, size_t count, float max) {
  float sums[kLanes] = {};
  for (size_t i = 0; i < count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += exp_of(values[i + lane] - max);
  }
  double sum = 0;
  for (const float lane : sums) sum += lane;
  return sum;
}

float largest_value(std::span<const float> values) {
  const size_t whole = values.size() / kLanes * kLanes;
  float best[kLanes];
  for (float& lane : best) lane = values[0];
  for (size_t i = 0; i < whole; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      best[lane] = values[i + lane] > best[lane] ? values[i + lane] : best[lane];
    }
  }
  float largest = best[0];
  for (const float lane : best) largest = lane > largest ? lane : largest;
  for (size_t i = whole; i < values.size(); ++i) {
    largest = values[i] > largest ? values[i] : largest;
  }
  return largest;
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
  const size_t whole = values.size() / kLanes * kLanes;
  double sum = 0;
  for (size_t i = 0; i < whole; i += kBlock) {
    sum += block_sum(values.data() + i, whole - i < kBlock ? whole - i : kBlock, max);
  }
  for (const float value : values.subspan(whole)) sum += exp_of(value - max);
  return sum;
}

}  // namespace kascade
