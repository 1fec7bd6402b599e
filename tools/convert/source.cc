#include "tools/convert/source.h"

#include <functional>
#include <numeric>

namespace kascade::convert {

int64_t SourceTensor::elements() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

}  // namespace kascade::convert
