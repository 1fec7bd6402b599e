// The rotation of inputs before quantisation (engine/backend/quantization.h) with vectors. Included
// by the files of integer kernels, which are compiled once per instruction set. A stage adds and
// subtracts the same pairs as rotate_inputs(), so that the results are equal to the bit.
#ifndef KASCADE_ENGINE_BACKEND_CPU_ROTATION_H_
#define KASCADE_ENGINE_BACKEND_CPU_ROTATION_H_

#include <array>

#include "engine/backend/cpu/vector.h"
#include "engine/backend/quantization.h"

namespace kascade::cpu::KASCADE_ISA {

constexpr uint32_t kSignBit = 0x80000000u;

struct alignas(64) RotationSigns {
  uint32_t bits[kRotationBlock]{};
};
constexpr RotationSigns rotation_signs() {
  RotationSigns signs;
  for (int64_t i = 0; i < kRotationBlock; ++i) signs.bits[i] = changes_sign(i) ? kSignBit : 0u;
  return signs;
}
inline constexpr RotationSigns kRotationSigns = rotation_signs();

KASCADE_INLINE Vec with_signs(Vec value, BitVec signs) {
  return reinterpret_cast<Vec>(reinterpret_cast<BitVec>(value) ^ signs);
}

// A stage whose pairs lie in one vector: the sum goes to the lane of the first, the difference to
// the lane of the second.
template <int kDistance>
KASCADE_INLINE Vec paired(Vec value) {
  BitVec second{};
  for (int lane = 0; lane < kLanes; ++lane) second[lane] = (lane & kDistance) != 0 ? kSignBit : 0u;
  return swapped<kDistance>(value) + with_signs(value, second);
}

template <int kBlock>
KASCADE_INLINE void rotate_block(const float* x, float* out) {
  constexpr int kVectors = kBlock / kLanes;
  Vec v[kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) {
    const auto* signs = reinterpret_cast<const BitVec*>(kRotationSigns.bits + i * kLanes);
    Vec value = with_signs(load(x + i * kLanes), *signs);
    value = paired<1>(value);
    value = paired<2>(value);
    if constexpr (kLanes > 4) value = paired<4>(value);
    if constexpr (kLanes > 8) value = paired<8>(value);
    v[i] = value;
  }
#pragma GCC unroll 4
  for (int distance = 1; distance < kVectors; distance *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < kVectors; ++i) {
      if ((i & distance) != 0) continue;
      const Vec first = v[i], second = v[i + distance];
      v[i] = first + second;
      v[i + distance] = first - second;
    }
  }
  constexpr float kInverseRoot = kBlock == 256 ? 1.0f / 16 : kBlock == 64 ? 1.0f / 8 : 1.0f / 4;
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) store(out + i * kLanes, v[i] * kInverseRoot);
}

inline void rotate(const float* x, int64_t size, float* out) {
  int64_t first = 0;
  for (; first + 256 <= size; first += 256) rotate_block<256>(x + first, out + first);
  for (; first + 64 <= size; first += 64) rotate_block<64>(x + first, out + first);
  for (; first + 16 <= size; first += 16) rotate_block<16>(x + first, out + first);
  __builtin_memcpy(out + first, x + first, static_cast<size_t>(size - first) * sizeof(float));
  rotate_inputs(out + first, size - first);
}

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_ROTATION_H_
