#include "engine/backend/cpu/kernels.h"

namespace kascade::cpu {

#ifdef KASCADE_X86_KERNELS
namespace avx512bf16 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
#endif
namespace baseline {
extern const Kernels kernels;
}

int32_t usable_kernels(const Kernels** out, int32_t room) {
  int32_t count = 0;
  const auto add = [&](const Kernels& kernels) {
    if (count < room) out[count++] = &kernels;
  };
#ifdef KASCADE_X86_KERNELS
  const bool avx2_fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2_fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    if (__builtin_cpu_supports("avx512bf16")) add(avx512bf16::kernels);
    add(avx512::kernels);
  }
  if (avx2_fma) add(avx2::kernels);
#endif
  add(baseline::kernels);
  return count;
}

const Kernels& pick_kernels() {
  const Kernels* best = nullptr;
  usable_kernels(&best, 1);
  return *best;
}

}  // namespace kascade::cpu
