// Matrix products with bf16, int8 and int4 weights: one packed copy serves every number of rows,
// and a row's result does not depend on the others.
#ifndef KASCADE_ENGINE_BACKEND_CPU_MATMUL_PANELS_H_
#define KASCADE_ENGINE_BACKEND_CPU_MATMUL_PANELS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/panel_kernels.h"
#include "engine/backend/cpu/thread_pool.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/tensor.h"

namespace kascade::cpu {

class MatmulPanels {
 public:
  // bf16 may be null; then nothing can be packed as kBF16.
  MatmulPanels(const IntegerKernels& integer, const Bf16Kernels* bf16, ThreadPool& pool)
      : integer_(integer), bf16_(bf16), pool_(pool), sums_(static_cast<size_t>(pool.threads())) {}

  // The parts' rows one after another, rounded or quantised to kBF16, kInt8 or kInt4. Beside the
  // result it needs one row in f32 per channel that a thread works on.
  std::unique_ptr<Matrix> pack(std::span<const Tensor> parts, WeightFormat format);

  // See Backend. Panels are the same for every set of kernels.
  static PackedForm packed_form(int64_t out_features, int64_t in_features, WeightFormat format);
  static std::unique_ptr<Matrix> adopt(std::span<const std::byte> packed, int64_t out_features,
                                       int64_t in_features, WeightFormat format);

  // x, out f32; both may have a stride.
  void run(Tensor x, const Matrix& w, Tensor out, Into into);

 private:
  struct Rows;
  struct Part;
  class PanelMatrix;

  void prepare_row(const PanelMatrix& w, Tensor x, int64_t row, const Rows& rows) const;
  void multiply(const PanelMatrix& w, const Rows& rows, const Part& part, int32_t* sums, Tensor out,
                Into into) const;

  const IntegerKernels& integer_;
  const Bf16Kernels* bf16_;
  ThreadPool& pool_;
  HostBuffer words_{};  // of run()'s x; grow to what was met
  HostBuffer starts_{};
  HostBuffer scales_{};
  std::vector<HostBuffer> sums_{};  // of each thread, see multiply()
};

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_MATMUL_PANELS_H_
