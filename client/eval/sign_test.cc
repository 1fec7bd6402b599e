#include "client/eval/sign_test.h"

#include <algorithm>
#include <cmath>

namespace kascade::client {

double sign_test_p_value(int64_t first_only, int64_t second_only) {
  const auto fewer = static_cast<double>(std::min(first_only, second_only));
  const auto all = static_cast<double>(first_only + second_only);
  // Binomial coefficients by logarithms, because they exceed a double from 1,030 questions on.
  double tail = 0;
  for (double i = 0; i <= fewer; ++i) {
    tail += std::exp(std::lgamma(all + 1) - std::lgamma(i + 1) - std::lgamma(all - i + 1) -
                     all * std::log(2.0));
  }
  return std::min(1.0, 2 * tail);
}

}  // namespace kascade::client
