// The CPU backend: vectorised kernels of this project, and oneDNN's matrix products for f32
// weights.
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
  WeightFormat weights = WeightFormat::kF32;  // not kAuto; kBF16 needs pick_bf16_kernels()
  std::optional<DType> cache{};               // f32, bf16 or int8; unset = default_cache(weights)
  int32_t threads = 0;          // 0 = one per core that this process may use; ignored with `cpus`
  std::vector<int32_t> cpus{};  // one thread is pinned to each; empty = no pinning
  // null = the best kernels for this machine
  const Kernels* kernels = nullptr;
  const IntegerKernels* integer_kernels = nullptr;
};

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_CPU_H_
