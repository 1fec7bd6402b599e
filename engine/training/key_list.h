// Softmax attention of one query over chosen rows of keys and values, and its gradients.
#ifndef KASCADE_ENGINE_TRAINING_KEY_LIST_H_
#define KASCADE_ENGINE_TRAINING_KEY_LIST_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace kascade::training {

// Σ a·b in eight partial sums, so that the compiler can use vector instructions.
template <typename T>
T dot(const T* a, const T* b, int32_t size) {
  T sums[8] = {};
  int32_t i = 0;
  for (; i + 8 <= size; i += 8) {
    for (int32_t lane = 0; lane < 8; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  for (; i < size; ++i) sums[0] += a[i] * b[i];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

template <typename T>
void add_scaled(const T* from, T factor, int32_t size, T* to) {
  for (int32_t i = 0; i < size; ++i) to[i] += factor * from[i];
}

// The keys and values of one KV head, or their gradients: row i begins at keys + i · stride.
template <typename T>
struct KeyRows {
  T* keys = nullptr;
  T* values = nullptr;
  int64_t stride = 0;

  T* key(int32_t index) const { return keys + index * stride; }
  T* value(int32_t index) const { return values + index * stride; }
};

// Writes the softmax of scale · query·key over the rows `chosen` to `probabilities`.
template <typename T>
void probabilities_of(const T* query, const KeyRows<const T>& rows, std::span<const int32_t> chosen,
                      int32_t head_dim, T scale, std::vector<T>& probabilities) {
  probabilities.resize(chosen.size());
  if (chosen.empty()) return;
  for (size_t k = 0; k < chosen.size(); ++k) {
    probabilities[k] = scale * dot(query, rows.key(chosen[k]), head_dim);
  }
  const T largest = *std::max_element(probabilities.begin(), probabilities.end());
  T sum{};
  for (T& p : probabilities) sum += p = std::exp(p - largest);
  for (T& p : probabilities) p /= sum;
}

// out = Σ probability · value; zeros if nothing is chosen.
template <typename T>
void attend(const KeyRows<const T>& rows, std::span<const int32_t> chosen,
            const std::vector<T>& probabilities, int32_t head_dim, T* out) {
  std::fill_n(out, head_dim, T{});
  for (size_t k = 0; k < chosen.size(); ++k) {
    add_scaled(rows.value(chosen[k]), probabilities[k], head_dim, out);
  }
}

// Adds the gradients of query, keys and values, given that of the output.
template <typename T>
void attend_backward(const T* query, const KeyRows<const T>& rows, std::span<const int32_t> chosen,
                     const std::vector<T>& probabilities, const T* out_gradient, int32_t head_dim,
                     T scale, T* query_gradient, const KeyRows<T>& gradients) {
  T mean{};  // Σ p · (out_gradient · value)
  for (size_t k = 0; k < chosen.size(); ++k) {
    mean += probabilities[k] * dot(rows.value(chosen[k]), out_gradient, head_dim);
  }
  for (size_t k = 0; k < chosen.size(); ++k) {
    const int32_t row = chosen[k];
    const T p = probabilities[k];
    const T logit = scale * p * (dot(rows.value(row), out_gradient, head_dim) - mean);
    add_scaled(out_gradient, p, head_dim, gradients.value(row));
    add_scaled(rows.key(row), logit, head_dim, query_gradient);
    add_scaled(query, logit, head_dim, gradients.key(row));
  }
}

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_KEY_LIST_H_
