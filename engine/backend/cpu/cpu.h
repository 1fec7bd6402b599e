// The CPU backend: our own kernels, and oneDNN's matrix products in f32.
#ifndef KASCADE_ENGINE_BACKEND_CPU_CPU_H_
#define KASCADE_ENGINE_BACKEND_CPU_CPU_H_

#include <memory>
#include <optional>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/panel_kernels.h"

namespace kascade::cpu {

struct CpuOptions {
  WeightFormat weights = WeightFormat::kF32;  // not kAuto; kBF16 where pick_bf16_kernels() has some
  std::optional<DType> cache{};               // f32, bf16 or int8; default_cache() of the weights
  int32_t threads = 0;                        // 0 = one per core that this process may use
  std::vector<int32_t> cpus{};  // one for each of as many threads, to pin them to; or none
  // nullptr = the best for this machine
  const Kernels* kernels = nullptr;
  const IntegerKernels* integer_kernels = nullptr;
};

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_CPU_H_
