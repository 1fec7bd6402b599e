#include "engine/backend/reference/reference_matrix.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/backend/host/host_buffer.h"
#include "engine/backend/quantization.h"
#include "engine/backend/reference/elements.h"

namespace kascade::reference {
namespace {

// Copies all rows of `from`, as f32, to the first rows of `out`.
void widen(Tensor from, Tensor out) {
  for (int64_t row = 0; row < from.rows; ++row) {
    for (int64_t col = 0; col < from.cols; ++col) out.f32(row)[col] = load(from, row, col);
  }
}

// The base of the reference backend's matrices. Each format multiplies in its own way.
class ReferenceMatrix : public Matrix {
 public:
  using Matrix::Matrix;
  virtual void multiply(Tensor x, Tensor out, Into into) const = 0;
};

class FloatMatrix final : public ReferenceMatrix {
 public:
  FloatMatrix(HostBuffer values, int64_t out_features, int64_t in_features)
      : ReferenceMatrix(out_features, in_features, values.bytes()), values_(std::move(values)) {}

  void multiply(Tensor x, Tensor out, Into into) const override {
    const Tensor weights = values_.view();
    for (int64_t row = 0; row < x.rows; ++row) {
      for (int64_t o = 0; o < weights.rows; ++o) {
        float sum = 0;
        for (int64_t i = 0; i < weights.cols; ++i) sum += x.f32(row)[i] * weights.f32(o)[i];
        float& to = out.f32(row)[o];
        to = into == Into::kAdd ? to + sum : sum;
      }
    }
  }

 private:
  HostBuffer values_;
};

// Channels as integers level · multiple, where the multiple is 1 for int8.
class IntegerMatrix final : public ReferenceMatrix {
 public:
  IntegerMatrix(Tensor values, WeightFormat format)
      : ReferenceMatrix(values.rows, values.cols,
                        values.rows * (values.cols * size_of(DType::kI32) + size_of(DType::kF32))),
        sum_length_(format == WeightFormat::kInt8 ? kInt8SumLength : kInt4SumLength),
        steps_(static_cast<size_t>(values.rows * values.cols)),
        scales_(static_cast<size_t>(values.rows)) {
    std::vector<int8_t> levels(static_cast<size_t>(values.cols));
    std::vector<int8_t> multiples(levels.size() / kInt4Group + 1, 1);
    for (int64_t row = 0; row < values.rows; ++row) {
      scales_[row] =
          format == WeightFormat::kInt8
              ? quantize_int8(values.f32(row), values.cols, levels.data())
              : quantize_int4(values.f32(row), values.cols, levels.data(), multiples.data());
      for (int64_t i = 0; i < values.cols; ++i) {
        const int32_t multiple = format == WeightFormat::kInt8 ? 1 : multiples[i / kInt4Group];
        steps_[row * values.cols + i] = levels[i] * multiple;
      }
    }
  }

  void multiply(Tensor x, Tensor out, Into into) const override {
    std::vector<int8_t> levels(static_cast<size_t>(x.cols));
    for (int64_t row = 0; row < x.rows; ++row) {
      const float scale = quantize_int8(x.f32(row), x.cols, levels.data());
      for (int64_t o = 0; o < out_features(); ++o) {
        float& to = out.f32(row)[o];
        if (into == Into::kOverwrite) to = 0;
        for (int64_t first = 0; first < x.cols; first += sum_length_) {
          int32_t sum = 0;
          for (int64_t i = first; i < std::min(first + sum_length_, x.cols); ++i) {
            sum += levels[i] * steps_[o * x.cols + i];
          }
          to += static_cast<float>(sum) * scales_[o] * scale;
        }
      }
    }
  }

 private:
  int64_t sum_length_;
  std::vector<int32_t> steps_;  // [out, in]
  std::vector<float> scales_;   // [out]
};

}  // namespace

std::unique_ptr<Matrix> pack_matrix(std::span<const Tensor> parts, WeightFormat format) {
  int64_t rows = 0;
  for (const Tensor& part : parts) rows += part.rows;
  const int64_t cols = parts.front().cols;
  HostBuffer values(DType::kF32, rows, cols);
  Tensor left = values.view();
  for (const Tensor& part : parts) {
    widen(part, left);
    left = left.slice_rows(part.rows, left.rows - part.rows);
  }
  if (format == WeightFormat::kF32) {
    return std::make_unique<FloatMatrix>(std::move(values), rows, cols);
  }
  return std::make_unique<IntegerMatrix>(values.view(), format);
}

void multiply(Tensor x, const Matrix& w, Tensor out, Into into) {
  static_cast<const ReferenceMatrix&>(w).multiply(x, out, into);
}

}  // namespace kascade::reference
