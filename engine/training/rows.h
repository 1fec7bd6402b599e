// Matrices of the training code, and the products that it needs of them. Everything is written for
// a number type T: f32 for training, double for the tests that compare gradients with differences.
#ifndef KASCADE_ENGINE_TRAINING_ROWS_H_
#define KASCADE_ENGINE_TRAINING_ROWS_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace kascade::training {

// A matrix in host memory, row-major without gaps.
template <typename T>
struct Rows {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<T> values{};

  Rows() = default;
  Rows(int64_t row_count, int64_t col_count)
      : rows(row_count), cols(col_count), values(static_cast<size_t>(row_count * col_count)) {}
  T* row(int64_t index) { return values.data() + index * cols; }
  const T* row(int64_t index) const { return values.data() + index * cols; }
};

template <typename T>
Rows<T> transposed(const Rows<T>& matrix) {
  Rows<T> result(matrix.cols, matrix.rows);
  for (int64_t r = 0; r < matrix.rows; ++r) {
    for (int64_t c = 0; c < matrix.cols; ++c) result.row(c)[r] = matrix.row(r)[c];
  }
  return result;
}

// A copy of [rows, cols] values that lie without gaps.
template <typename T>
Rows<T> rows_of(const T* values, int64_t rows, int64_t cols) {
  Rows<T> result(rows, cols);
  std::copy_n(values, rows * cols, result.values.begin());
  return result;
}

template <typename T>
void add_to(std::span<const T> from, T* to) {
  for (size_t i = 0; i < from.size(); ++i) to[i] += from[i];
}

// Products of matrices. One thread calls them.
template <typename T>
class Products {
 public:
  class Factor {  // a right factor, prepared once for many products
   public:
    virtual ~Factor() = default;
  };

  virtual ~Products() = default;
  virtual std::unique_ptr<Factor> prepare(const Rows<T>& right) = 0;  // [n, k]
  // left · rightᵀ: [m, k] · [n, k]ᵀ = [m, n].
  virtual Rows<T> times(const Rows<T>& left, const Factor& right) = 0;

  Rows<T> times(const Rows<T>& left, const Rows<T>& right) { return times(left, *prepare(right)); }
};

// Plain loops.
std::unique_ptr<Products<double>> make_plain_products();

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_ROWS_H_
