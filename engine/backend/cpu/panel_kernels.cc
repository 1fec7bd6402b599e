#include "engine/backend/cpu/panel_kernels.h"

#include "engine/backend/cpu/features.h"

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
  if (has_avx512() && __builtin_cpu_supports("avx512vnni")) add(avx512vnni::integer_kernels);
  if (has_avx2()) add(avx2::integer_kernels);
#endif
  add(baseline::integer_kernels);
  return count;
}

const Bf16Kernels* pick_bf16_kernels() {
#ifdef KASCADE_X86_KERNELS
  if (has_avx512() && __builtin_cpu_supports("avx512bf16")) return &avx512bf16::bf16_kernels;
#endif
  return nullptr;
}

const IntegerKernels& pick_integer_kernels() {
  const IntegerKernels* best = nullptr;
  usable_integer_kernels(&best, 1);
  return *best;
}

}  // namespace kascade::cpu
