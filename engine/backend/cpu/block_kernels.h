// The kernels for GGUF's blocks of one instruction set (block_vnni.cc, block_plain.cc), which the
// integer kernels of the same set list.
#ifndef KASCADE_ENGINE_BACKEND_CPU_BLOCK_KERNELS_H_
#define KASCADE_ENGINE_BACKEND_CPU_BLOCK_KERNELS_H_

#include "engine/backend/cpu/panel_kernels.h"

namespace kascade::cpu::KASCADE_ISA {

extern const PanelKernel kBlockKernels[kBlockDTypes];
void quantize_groups(const float* x, int64_t size, const GroupedRow& row);

struct Quantized {
  float scale;
  int32_t level_sum;  // of all levels of the row
};

// Quantises each group of the row by `quantize`, which takes the arguments of
// IntegerKernels::quantize and returns a Quantized.
template <typename Quantize>
inline void quantize_each_group(const float* x, int64_t size, const GroupedRow& row,
                                const Quantize& quantize) {
  const IntegerRow& to = row.integers;
  const int64_t starts = kBlockGroup / to.sum_length * to.rows;
  for (int64_t first = 0, group = 0; first < to.padded; first += kBlockGroup, ++group) {
    IntegerRow part = to;
    part.words += first / 4 * to.rows;
    part.starts += group * starts;
    part.padded = kBlockGroup;
    const int64_t left = size > first ? size - first : 0;
    const Quantized done = quantize(x + first, left < kBlockGroup ? left : kBlockGroup, part);
    row.scales[group * to.rows] = done.scale;
    row.level_sums[group * to.rows] = done.scale * static_cast<float>(done.level_sum);
  }
}

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_BLOCK_KERNELS_H_
