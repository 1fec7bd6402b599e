#include "engine/training/dense_attention.h"

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "engine/training/key_list.h"
#include "engine/training/parallel.h"

namespace kascade::training {

template <typename T>
Rows<T> dense_attention(const AdapterShape& shape, double scale, const AttentionRows<T>& in,
                        const Rotation<T>& rotation) {
  Rows<T> queries = in.queries;
  Rows<T> keys = in.keys;
  rotation.apply(queries);
  rotation.apply(keys);
  std::vector<int32_t> all(static_cast<size_t>(keys.rows));
  std::iota(all.begin(), all.end(), 0);
  Rows<T> out(queries.rows, queries.cols);
  for_each_in_parallel(shape.heads, [&](int64_t head) {
    const int64_t column = head / shape.group() * shape.head_dim;
    const KeyRows<const T> rows{keys.values.data() + column, in.values.values.data() + column,
                                keys.cols};
    std::vector<T> probabilities;
    for (int64_t t = 0; t < queries.rows; ++t) {
      const auto causal = std::span<const int32_t>(all).first(static_cast<size_t>(t + 1));
      probabilities_of(queries.row(t) + head * shape.head_dim, rows, causal, shape.head_dim,
                       static_cast<T>(scale), probabilities);
      attend(rows, causal, probabilities, shape.head_dim, out.row(t) + head * shape.head_dim);
    }
  });
  return out;
}

template Rows<float> dense_attention(const AdapterShape&, double, const AttentionRows<float>&,
                                     const Rotation<float>&);
template Rows<double> dense_attention(const AdapterShape&, double, const AttentionRows<double>&,
                                      const Rotation<double>&);

}  // namespace kascade::training
