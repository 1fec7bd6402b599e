#include "engine/training/backend_products.h"

#include <span>
#include <utility>

#include "engine/base/check.h"

namespace kascade::training {
namespace {

class BackendProducts final : public Products<float> {
 public:
  explicit BackendProducts(Backend& backend) : backend_(backend) {
    KASCADE_CHECK(backend.precision().weights == WeightFormat::kF32);
  }
  using Products<float>::times;

  std::unique_ptr<Factor> prepare(const Rows<float>& right) override {
    if (right.values.empty()) return std::make_unique<Packed>(right.rows, nullptr);
    const Tensor tensor{const_cast<float*>(right.values.data()), DType::kF32, right.rows,
                        right.cols, right.cols};
    return std::make_unique<Packed>(right.rows,
                                    backend_.pack(std::span(&tensor, 1), MatrixUse::kLayer));
  }

  Rows<float> times(const Rows<float>& left, const Factor& right) override {
    const auto& packed = static_cast<const Packed&>(right);
    Rows<float> result(left.rows, packed.rows);
    if (left.rows == 0 || packed.matrix == nullptr) return result;
    KASCADE_CHECK(packed.matrix->in_features() == left.cols);
    const Buffer in = backend_.allocate(DType::kF32, left.rows, left.cols);
    const Buffer out = backend_.allocate(DType::kF32, result.rows, result.cols);
    KASCADE_CHECK(in.allocated() && out.allocated());
    backend_.upload(std::as_bytes(std::span(left.values)), in.view());
    backend_.matmul(in.view(), *packed.matrix, out.view(), Into::kOverwrite);
    backend_.download(out.view(), std::as_writable_bytes(std::span(result.values)));
    return result;
  }

 private:
  struct Packed final : Factor {
    Packed(int64_t row_count, std::unique_ptr<Matrix> made)
        : rows(row_count), matrix(std::move(made)) {}
    int64_t rows;
    std::unique_ptr<Matrix> matrix;  // null if the factor has no elements
  };

  Backend& backend_;
};

}  // namespace

std::unique_ptr<Products<float>> make_backend_products(Backend& backend) {
  return std::make_unique<BackendProducts>(backend);
}

}  // namespace kascade::training
