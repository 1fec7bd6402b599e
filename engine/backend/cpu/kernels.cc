#include "engine/backend/cpu/kernels.h"

#include "engine/backend/cpu/features.h"

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
  if (has_avx512()) {
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
      add(avx512bf16::kernels);
    }
    add(avx512::kernels);
  }
  if (has_avx2()) add(avx2::kernels);
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
