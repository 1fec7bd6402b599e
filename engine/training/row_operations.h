// Operations on the rows of matrices, and their gradients.
#ifndef KASCADE_ENGINE_TRAINING_ROW_OPERATIONS_H_
#define KASCADE_ENGINE_TRAINING_ROW_OPERATIONS_H_

#include <cmath>
#include <cstdint>

#include "engine/training/rows.h"

namespace kascade::training {

// 1 / √(mean(x²) + eps) of a row.
template <typename T>
T inverse_rms(const T* row, int64_t cols, double eps) {
  T squares{};
  for (int64_t c = 0; c < cols; ++c) squares += row[c] * row[c];
  return T{1} / std::sqrt(squares / static_cast<T>(cols) + static_cast<T>(eps));
}

// RMSNorm of every row; weight [cols].
template <typename T>
Rows<T> rms_norm(const Rows<T>& x, const T* weight, double eps) {
  Rows<T> result(x.rows, x.cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    const T factor = inverse_rms(x.row(r), x.cols, eps);
    for (int64_t c = 0; c < x.cols; ++c) result.row(r)[c] = x.row(r)[c] * factor * weight[c];
  }
  return result;
}

// Adds the gradient of x to `x_gradient` and, unless it is null, that of the weight to
// `weight_gradient`.
template <typename T>
void rms_norm_backward(const Rows<T>& x, const T* weight, double eps, const Rows<T>& gradient,
                       Rows<T>& x_gradient, T* weight_gradient = nullptr) {
  const auto cols = static_cast<T>(x.cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    const T* row = x.row(r);
    const T* out = gradient.row(r);
    const T factor = inverse_rms(row, x.cols, eps);
    T along{};  // Σ gradient · weight · x
    for (int64_t c = 0; c < x.cols; ++c) along += out[c] * weight[c] * row[c];
    for (int64_t c = 0; c < x.cols; ++c) {
      x_gradient.row(r)[c] +=
          factor * (out[c] * weight[c] - row[c] * along * factor * factor / cols);
      if (weight_gradient != nullptr) weight_gradient[c] += out[c] * row[c] * factor;
    }
  }
}

// silu(gate) · up.
template <typename T>
Rows<T> silu_mul(const Rows<T>& gate, const Rows<T>& up) {
  Rows<T> result(gate.rows, gate.cols);
  for (size_t i = 0; i < gate.values.size(); ++i) {
    const T x = gate.values[i];
    result.values[i] = x / (T{1} + std::exp(-x)) * up.values[i];
  }
  return result;
}

// The gradients of gate and up; they replace `gate` and `up`.
template <typename T>
void silu_mul_backward(const Rows<T>& gradient, Rows<T>& gate, Rows<T>& up) {
  for (size_t i = 0; i < gate.values.size(); ++i) {
    const T x = gate.values[i];
    const T sigmoid = T{1} / (T{1} + std::exp(-x));
    const T up_value = up.values[i];
    up.values[i] = gradient.values[i] * x * sigmoid;
    gate.values[i] = gradient.values[i] * up_value * sigmoid * (T{1} + x * (T{1} - sigmoid));
  }
}

// to += factor · from.
template <typename T>
void add_rows(const Rows<T>& from, Rows<T>& to, T factor = T{1}) {
  for (size_t i = 0; i < from.values.size(); ++i) to.values[i] += factor * from.values[i];
}

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_ROW_OPERATIONS_H_
