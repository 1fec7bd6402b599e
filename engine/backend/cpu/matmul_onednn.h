// Matrix products with f32 weights by oneDNN. Weights are packed once into the layout that oneDNN
// prefers, and one primitive is prepared for each shape that occurs. A product is cut into slices,
// and oneDNN computes each slice on one thread. With threads of its own it would wait at the end of
// every product for any thread whose core another process took.
#ifndef KASCADE_ENGINE_BACKEND_CPU_MATMUL_ONEDNN_H_
#define KASCADE_ENGINE_BACKEND_CPU_MATMUL_ONEDNN_H_

#include <memory>
#include <span>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/thread_pool.h"
#include "engine/backend/tensor.h"

namespace kascade::cpu {

// Whether a row of a product has the same bits whatever the number of rows. This is so with
// oneDNN's AVX-512 kernels; its older kernels add in an order that depends on the shape.
bool rows_are_independent();

class MatmulOneDnn {
 public:
  explicit MatmulOneDnn(ThreadPool& pool);
  ~MatmulOneDnn();

  // Concatenates the parts along their rows and packs them as f32.
  std::unique_ptr<Matrix> pack(std::span<const Tensor> parts);

  // x, out f32; both may have a stride.
  void run(Tensor x, const Matrix& w, Tensor out, Into into);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_MATMUL_ONEDNN_H_
