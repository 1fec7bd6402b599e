// Matrix products with weights in the formats of the checkpoint, which may differ between the parts
// of a matrix.
#ifndef KASCADE_ENGINE_BACKEND_CPU_MATMUL_NATIVE_H_
#define KASCADE_ENGINE_BACKEND_CPU_MATMUL_NATIVE_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <span>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/matmul_onednn.h"
#include "engine/backend/cpu/matmul_panels.h"

namespace kascade::cpu {

class MatmulNative {
 public:
  // Both must outlive this object.
  MatmulNative(MatmulOneDnn& f32, MatmulPanels& panels) : f32_(f32), panels_(panels) {}

  // Concatenates the parts along their rows. Blocks keep their levels and scales. f16 has no
  // products of its own and is multiplied in f32, as is bf16 on a machine without bf16
  // instructions.
  std::unique_ptr<Matrix> pack(std::span<const Tensor> parts);

  // See Backend. The form is unset if a part is multiplied in f32; its name lists the forms of
  // neighbouring parts of one dtype, such as "Q4_K-panels-1+Q6_K-panels-1".
  static std::optional<PackedForm> packed_form(std::span<const Tensor> parts);
  static std::unique_ptr<Matrix> adopt(std::span<const std::byte> packed,
                                       std::span<const Tensor> parts);

  // x, out f32; both may have a stride.
  void run(Tensor x, const Matrix& w, Tensor out, Into into);

 private:
  class NativeMatrix;

  MatmulOneDnn& f32_;
  MatmulPanels& panels_;
};

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_MATMUL_NATIVE_H_
