// Matrix products with int8 and int4 weights: one packed copy serves every number of rows.
#ifndef KASCADE_ENGINE_BACKEND_CPU_MATMUL_INTEGER_H_
#define KASCADE_ENGINE_BACKEND_CPU_MATMUL_INTEGER_H_

#include <cstdint>
#include <memory>
#include <span>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/integer_kernels.h"
#include "engine/tensor.h"

namespace kascade::cpu {

class MatmulInteger {
 public:
  MatmulInteger(const IntegerKernels& kernels, int32_t threads)
      : kernels_(kernels), threads_(threads) {}

  // The parts' rows one after another, quantised to kInt8 or kInt4. Beside the result it needs one
  // row in f32 per channel that a thread works on.
  std::unique_ptr<Matrix> pack(std::span<const Tensor> parts, WeightFormat format) const;

  // x, out f32; both may have a stride.
  void run(Tensor x, const Matrix& w, Tensor out, Into into);

 private:
  const IntegerKernels& kernels_;
  int32_t threads_;
  Buffer levels_{};  // of run()'s x; grow to what was met
  Buffer starts_{};
  Buffer scales_{};
};

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_MATMUL_INTEGER_H_
