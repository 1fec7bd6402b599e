#include "engine/backend/cpu/integer_kernels.h"

namespace kascade::cpu {

#ifdef KASCADE_X86_KERNELS
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

const IntegerKernels& pick_integer_kernels() {
  const IntegerKernels* best = nullptr;
  usable_integer_kernels(&best, 1);
  return *best;
}

}  // namespace kascade::cpu
