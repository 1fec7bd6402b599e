// Matrix products with bf16, int8 and int4 weights and with GGUF's blocks. One packed copy serves
// every number of rows, and a row's result does not depend on the other rows.
#ifndef KASCADE_ENGINE_BACKEND_CPU_MATMUL_PANELS_H_
#define KASCADE_ENGINE_BACKEND_CPU_MATMUL_PANELS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/panel_kernels.h"
#include "engine/backend/cpu/panel_layout.h"
#include "engine/backend/cpu/thread_pool.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/tensor.h"

namespace kascade::cpu {

class MatmulPanels {
 public:
  // `bf16` may be null, in which case nothing can be packed as kBF16.
  MatmulPanels(const IntegerKernels& integer, const Bf16Kernels* bf16, ThreadPool& pool)
      : integer_(integer),
        bf16_(bf16),
        pool_(pool),
        rooms_(static_cast<size_t>(pool.threads())),
        rotated_(rooms_.size()) {}

  // Concatenates the parts along their rows and rounds or quantises them to kBF16, kInt8 or kInt4.
  // For a format with blocks, all parts must have blocks of this format, which keep their levels
  // and scales. Besides the result, each thread needs memory for one channel in f32. The result
  // lies in `memory`, which must outlive it and be aligned and as large as packed_form() says
  // (CHECKed); if `memory` is empty, it has memory of its own.
  std::unique_ptr<Matrix> pack(std::span<const Tensor> parts, PanelFormat format,
                               std::span<std::byte> memory = {});

  // See Backend. The packed bytes are the same for every set of kernels.
  static PackedForm packed_form(std::span<const Tensor> parts, PanelFormat format);
  static std::unique_ptr<Matrix> adopt(std::span<const std::byte> packed,
                                       std::span<const Tensor> parts, PanelFormat format);

  // x, out f32; both may have a stride.
  void run(Tensor x, const Matrix& w, Tensor out, Into into);

 private:
  struct Rows;
  struct Part;
  struct Room;
  class PanelMatrix;
  class ChannelPacker;

  PanelKernel kernel_of(PanelFormat format) const;

  // Quantises or rounds all rows of x.
  Rows prepare_rows(const PanelMatrix& w, Tensor x);
  // `rotated` is room for a row of x.
  void prepare_row(const PanelMatrix& w, Tensor x, int64_t row, const Rows& rows,
                   float* rotated) const;
  void multiply(const PanelMatrix& w, const Rows& rows, const Part& part, Room room, Tensor out,
                Into into) const;

  const IntegerKernels& integer_;
  const Bf16Kernels* bf16_;
  ThreadPool& pool_;
  // The quantised rows of run()'s x. These buffers grow to the largest size that occurred.
  HostBuffer words_{};
  HostBuffer starts_{};
  HostBuffer scales_{};
  std::vector<HostBuffer> rooms_;    // [threads], see multiply()
  std::vector<HostBuffer> rotated_;  // [threads], a row of x
};

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_MATMUL_PANELS_H_
