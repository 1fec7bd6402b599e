// The weight matrices of the reference backend and their products.
#ifndef KASCADE_ENGINE_BACKEND_REFERENCE_REFERENCE_MATRIX_H_
#define KASCADE_ENGINE_BACKEND_REFERENCE_REFERENCE_MATRIX_H_

#include <memory>
#include <span>

#include "engine/backend/backend.h"
#include "engine/backend/tensor.h"

namespace kascade::reference {

// Concatenates the parts along their rows, as Backend::pack() does. `format` is kF32, kInt8,
// kInt4 or kNative.
std::unique_ptr<Matrix> pack_matrix(std::span<const Tensor> parts, WeightFormat format);

// Backend::matmul() for a matrix of pack_matrix().
void multiply(Tensor x, const Matrix& w, Tensor out, Into into);

}  // namespace kascade::reference

#endif  // KASCADE_ENGINE_BACKEND_REFERENCE_REFERENCE_MATRIX_H_
