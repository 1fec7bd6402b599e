// Instruction sets of the processor that the program runs on.
#ifndef KASCADE_ENGINE_BACKEND_CPU_FEATURES_H_
#define KASCADE_ENGINE_BACKEND_CPU_FEATURES_H_

namespace kascade::cpu {

#ifdef KASCADE_X86_KERNELS
inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_FEATURES_H_
