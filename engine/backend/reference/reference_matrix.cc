#include "engine/backend/reference/reference_matrix.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "engine/backend/block_formats.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/quantization.h"
#include "engine/backend/reference/elements.h"

namespace kascade::reference {
namespace {

// Copies all rows of `from`, as f32, to the first rows of `out`.
void widen(Tensor from, Tensor out) {
  for (int64_t row = 0; row < from.rows; ++row) {
    if (has_blocks(from.dtype)) {
      dequantize_row(from.dtype, from.row<std::byte>(row), from.cols, out.f32(row));
      continue;
    }
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
  // Rotates `values` in place.
  IntegerMatrix(Tensor values, WeightFormat format)
      : ReferenceMatrix(values.rows, values.cols,
                        values.rows * (values.cols * size_of(DType::kI32) + size_of(DType::kF32))),
        steps_(static_cast<size_t>(values.rows * values.cols)),
        scales_(static_cast<size_t>(values.rows)) {
    std::vector<int8_t> levels(static_cast<size_t>(values.cols));
    std::vector<int8_t> multiples(levels.size() / kInt4Group + 1, 1);
    for (int64_t row = 0; row < values.rows; ++row) {
      rotate_inputs(values.f32(row), values.cols);
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
    std::vector<float> rotated(static_cast<size_t>(x.cols));
    std::vector<int8_t> levels(rotated.size());
    for (int64_t row = 0; row < x.rows; ++row) {
      std::copy_n(x.f32(row), x.cols, rotated.data());
      rotate_inputs(rotated.data(), x.cols);
      const float scale = quantize_int8(rotated.data(), x.cols, levels.data());
      for (int64_t o = 0; o < out_features(); ++o) {
        float& to = out.f32(row)[o];
        if (into == Into::kOverwrite) to = 0;
        for (int64_t first = 0; first < x.cols; first += kIntegerSumLength) {
          int32_t sum = 0;
          for (int64_t i = first; i < std::min(first + kIntegerSumLength, x.cols); ++i) {
            sum += levels[i] * steps_[o * x.cols + i];
          }
          to += static_cast<float>(sum) * scales_[o] * scale;
        }
      }
    }
  }

 private:
  std::vector<int32_t> steps_;  // [out, in]
  std::vector<float> scales_;   // [out]
};

// A matrix with blocks, multiplied as engine/backend/block_formats.h says.
class BlockMatrix final : public ReferenceMatrix {
 public:
  explicit BlockMatrix(Tensor values)
      : ReferenceMatrix(values.rows, values.cols,
                        values.rows * row_elements(values.dtype, values.cols)),
        format_(block_format_of(values.dtype)),
        rows_(static_cast<size_t>(values.rows)) {
    for (int64_t row = 0; row < values.rows; ++row) {
      read_block_row(values.dtype, values.row<std::byte>(row), values.cols, rows_[row]);
    }
  }

  void multiply(Tensor x, Tensor out, Into into) const override {
    std::vector<int8_t> levels(static_cast<size_t>(x.cols));
    std::vector<float> scales(levels.size() / kBlockGroup);
    for (int64_t row = 0; row < x.rows; ++row) {
      quantize_int8_groups(x.f32(row), x.cols, kBlockGroup, levels.data(), scales.data());
      for (int64_t o = 0; o < out_features(); ++o) {
        const float sum = product(rows_[o], levels, scales);
        float& to = out.f32(row)[o];
        to = into == Into::kAdd ? to + sum : sum;
      }
    }
  }

 private:
  // Σ (level - offset) · x_level over a group of the weights.
  float group_sum(const BlockRow& w, const std::vector<int8_t>& x, int64_t group) const {
    int32_t sum = 0;
    for (int64_t i = group * format_.group; i < (group + 1) * format_.group; ++i) {
      sum += (w.levels[i] - format_.offset) * x[i];
    }
    return static_cast<float>(sum);
  }

  float product(const BlockRow& w, const std::vector<int8_t>& x,
                const std::vector<float>& x_scales) const {
    float sum = 0;
    for (int64_t g = 0; g < static_cast<int64_t>(x_scales.size()); ++g) {
      const int64_t first = g * kBlockGroup / format_.group;
      float term = group_sum(w, x, first) * w.scale(first);
      if (format_.group < kBlockGroup) {
        term = std::fma(group_sum(w, x, first + 1), w.scale(first + 1), term);
      }
      sum = std::fma(term, x_scales[g], sum);
      if (!format_.minima) continue;
      int32_t levels = 0;
      for (int64_t i = g * kBlockGroup; i < (g + 1) * kBlockGroup; ++i) levels += x[i];
      sum = std::fma(w.minimum(g), x_scales[g] * static_cast<float>(levels), sum);
    }
    return sum;
  }

  BlockFormat format_;
  std::vector<BlockRow> rows_;  // [out]
};

// Matrices of different formats, one below the other.
class StackedMatrix final : public ReferenceMatrix {
 public:
  StackedMatrix(std::vector<std::unique_ptr<ReferenceMatrix>> parts, int64_t rows, int64_t bytes)
      : ReferenceMatrix(rows, parts.front()->in_features(), bytes), parts_(std::move(parts)) {}

  void multiply(Tensor x, Tensor out, Into into) const override {
    int64_t first = 0;
    for (const auto& part : parts_) {
      part->multiply(x, out.slice_cols(first, part->out_features()), into);
      first += part->out_features();
    }
  }

 private:
  std::vector<std::unique_ptr<ReferenceMatrix>> parts_;
};

HostBuffer widened(std::span<const Tensor> parts, int64_t rows) {
  HostBuffer values(DType::kF32, rows, parts.front().cols);
  Tensor left = values.view();
  for (const Tensor& part : parts) {
    widen(part, left);
    left = left.slice_rows(part.rows, left.rows - part.rows);
  }
  return values;
}

std::unique_ptr<Matrix> pack_native(std::span<const Tensor> parts, int64_t rows) {
  std::vector<std::unique_ptr<ReferenceMatrix>> packed;
  int64_t bytes = 0;
  for (const Tensor& part : parts) {
    if (has_blocks(part.dtype)) {
      packed.push_back(std::make_unique<BlockMatrix>(part));
    } else {
      packed.push_back(
          std::make_unique<FloatMatrix>(widened({&part, 1}, part.rows), part.rows, part.cols));
    }
    bytes += packed.back()->bytes();
  }
  return std::make_unique<StackedMatrix>(std::move(packed), rows, bytes);
}

}  // namespace

std::unique_ptr<Matrix> pack_matrix(std::span<const Tensor> parts, WeightFormat format) {
  int64_t rows = 0;
  for (const Tensor& part : parts) rows += part.rows;
  if (format == WeightFormat::kNative) return pack_native(parts, rows);
  HostBuffer values = widened(parts, rows);
  const int64_t cols = values.view().cols;
  if (format == WeightFormat::kF32) {
    return std::make_unique<FloatMatrix>(std::move(values), rows, cols);
  }
  return std::make_unique<IntegerMatrix>(values.view(), format);
}

void multiply(Tensor x, const Matrix& w, Tensor out, Into into) {
  static_cast<const ReferenceMatrix&>(w).multiply(x, out, into);
}

}  // namespace kascade::reference
