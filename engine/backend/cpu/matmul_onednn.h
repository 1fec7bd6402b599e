// Matrix products by oneDNN: weights packed once into the layout that its kernels like best, one
// prepared primitive per shape met.
#ifndef KASCADE_ENGINE_BACKEND_CPU_MATMUL_ONEDNN_H_
#define KASCADE_ENGINE_BACKEND_CPU_MATMUL_ONEDNN_H_

#include <memory>

#include "engine/backend/backend.h"
#include "engine/tensor.h"

namespace kascade::cpu {

// Whether oneDNN has kernels of its own for bf16 here, rather than none or an emulation.
bool bf16_matmul_supported();

// Whether a row of a product has the same bits however many rows there are. So with oneDNN's
// AVX-512 kernels; its older ones add in an order that depends on the shape.
bool rows_are_independent();

class MatmulOneDnn {
 public:
  explicit MatmulOneDnn(DType weights);
  ~MatmulOneDnn();

  // `plain` is [out, in] in the weights' dtype, rows without gaps.
  std::unique_ptr<Matrix> pack(Tensor plain);

  // x in the weights' dtype, out f32; both may have a stride.
  void run(Tensor x, const Matrix& w, Tensor out, Into into);

 private:
  void run_strided(Tensor x, const Matrix& w, Tensor out, Into into);

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_MATMUL_ONEDNN_H_
