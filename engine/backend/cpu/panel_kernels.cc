#include "engine/backend/cpu/panel_kernels.h"

namespace kascade::cpu {

#ifdef KASCADE_X86_KERNELS
namespace avx512bf16 {
extern const Bf16Kernels bf16_kernels;
}
namespace avx512vnni {
extern const IntegerKernels integer_kernels;
}
namespace avx2 {
extern const IntegerKernels integer_kernels;
}
#endif
namespace baseline {
extern const IntegerKernels integer_kernels;
}

int32_t usable_integer_kernels(const IntegerKernels** out, int32_t room) {
  int32_t count = 0;
  const auto add = [&](const IntegerKernels& kernels) {
    if (count < room) out[count++] = &kernels;
  };
#ifdef KASCADE_X86_KERNELS
  const bool avx2_fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2_fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni")) {
    add(avx512vnni::integer_kernels);
  }
  if (avx2_fma) add(avx2::integer_kernels);
#endif
  add(baseline::integer_kernels);
  return count;
}

const Bf16Kernels* pick_bf16_kernels() {
#ifdef KASCADE_X86_KERNELS
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bf16")) {
    return &avx512bf16::bf16_kernels;
  }
#endif
  return nullptr;
}

const IntegerKernels& pick_integer_kernels() {
  const IntegerKernels* best = nullptr;
  usable_integer_kernels(&best, 1);
  return *best;
}

}  // namespace kascade::cpu
