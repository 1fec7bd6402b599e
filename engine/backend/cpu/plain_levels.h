// What the files of integer kernels without byte-product instructions share.
#ifndef KASCADE_ENGINE_BACKEND_CPU_PLAIN_LEVELS_H_
#define KASCADE_ENGINE_BACKEND_CPU_PLAIN_LEVELS_H_

#include "engine/backend/cpu/block_kernels.h"
#include "engine/backend/cpu/panel_kernels.h"
#include "engine/backend/cpu/vector.h"

namespace kascade::cpu::KASCADE_ISA {

// Level i of a word of four.
KASCADE_INLINE int32_t level_of(int32_t four, int i) {
  return static_cast<int8_t>(static_cast<uint32_t>(four) >> (8 * i));
}

// Quantises a row and adds up all its levels.
inline Quantized quantize_counting(const float* x, int64_t size, const IntegerRow& row) {
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < size; ++i) {
    const float magnitude = __builtin_fabsf(x[i]);
    finite &= magnitude <= __FLT_MAX__;
    largest = magnitude > largest ? magnitude : largest;
  }
  const bool usable = finite && largest >= 0x1p-100f;
  const float inverse = usable ? 127.0f / largest : 0.0f;
  int32_t sum = 0, total = 0;
  int32_t* start = row.starts;
  for (int64_t i = 0; i < row.padded; i += 4) {
    uint32_t four = 0;
    for (int64_t j = 0; j < 4 && usable && i + j < size; ++j) {
      const auto level = static_cast<int32_t>(__builtin_lrintf(x[i + j] * inverse));
      four |= (static_cast<uint32_t>(level) & 0xffu) << (8 * j);
      sum += level;
    }
    row.words[i / 4 * row.rows] = static_cast<int32_t>(four);
    if ((i + 4) % row.sum_length == 0 || i + 4 == row.padded) {
      *start = -row.offset * sum;
      total += sum;
      start += row.rows;
      sum = 0;
    }
  }
  if (!finite) return {__builtin_nanf(""), total};
  return {usable ? largest / 127.0f : 0.0f, total};
}

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_PLAIN_LEVELS_H_
