#include "engine/training/rows.h"

namespace kascade::training {
namespace {

template <typename T>
class PlainProducts final : public Products<T> {
 public:
  using Factor = typename Products<T>::Factor;
  using Products<T>::times;

  std::unique_ptr<Factor> prepare(const Rows<T>& right) override {
    return std::make_unique<Copy>(right);
  }

  Rows<T> times(const Rows<T>& left, const Factor& right) override {
    const Rows<T>& factor = static_cast<const Copy&>(right).rows;
    Rows<T> result(left.rows, factor.rows);
    for (int64_t m = 0; m < left.rows; ++m) {
      for (int64_t n = 0; n < factor.rows; ++n) {
        for (int64_t k = 0; k < left.cols; ++k) {
          result.row(m)[n] += left.row(m)[k] * factor.row(n)[k];
        }
      }
    }
    return result;
  }

 private:
  struct Copy final : Factor {
    explicit Copy(const Rows<T>& right) : rows(right) {}
    Rows<T> rows;
  };
};

}  // namespace

std::unique_ptr<Products<double>> make_plain_products() {
  return std::make_unique<PlainProducts<double>>();
}

}  // namespace kascade::training
