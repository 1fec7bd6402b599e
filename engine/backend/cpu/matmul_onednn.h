// Matrix products with f32 weights by oneDNN: packed once into the layout that its kernels like
// best, one prepared primitive per shape met. It works on slices of a product, on one thread each:
// threads of its own would wait at the end of every product for one whose core was taken.
#ifndef KASCADE_ENGINE_BACKEND_CPU_MATMUL_ONEDNN_H_
#define KASCADE_ENGINE_BACKEND_CPU_MATMUL_ONEDNN_H_

#include <memory>
#include <span>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/thread_pool.h"
#include "engine/backend/tensor.h"

namespace kascade::cpu {

// Whether a row of a product has the same bits however many rows there are. So with oneDNN's
// AVX-512 kernels; its older ones add in an order that depends on the shape.
bool rows_are_independent();

class MatmulOneDnn {
 public:
  explicit MatmulOneDnn(ThreadPool& pool);
  ~MatmulOneDnn();

  // The parts' rows one after another, in f32.
  std::unique_ptr<Matrix> pack(std::span<const Tensor> parts);

  // x, out f32; both may have a stride.
  void run(Tensor x, const Matrix& w, Tensor out, Into into);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_MATMUL_ONEDNN_H_
