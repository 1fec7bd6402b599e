// Rotary position embedding of whole texts, and its inverse for gradients.
#ifndef KASCADE_ENGINE_TRAINING_ROTATION_H_
#define KASCADE_ENGINE_TRAINING_ROTATION_H_

#include <cmath>
#include <cstdint>
#include <span>

#include "engine/training/rows.h"

namespace kascade::training {

// The cosines and sines of the positions 0 … tokens − 1, times the model's magnitude.
template <typename T>
class Rotation {
 public:
  Rotation(int64_t tokens, std::span<const double> frequencies, double magnitude)
      : cosines_(tokens, static_cast<int64_t>(frequencies.size())),
        sines_(tokens, static_cast<int64_t>(frequencies.size())) {
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t p = 0; p < cosines_.cols; ++p) {
        const double angle = static_cast<double>(t) * frequencies[p];
        cosines_.row(t)[p] = static_cast<T>(std::cos(angle) * magnitude);
        sines_.row(t)[p] = static_cast<T>(std::sin(angle) * magnitude);
      }
    }
  }

  // Rotates every head of every row; components p and p + head_dim / 2 form a pair.
  void apply(Rows<T>& rows) const { turn(rows, T{1}); }
  // The transpose of apply(): takes gradients of rotated rows to gradients of the rows before.
  void apply_transposed(Rows<T>& rows) const { turn(rows, T{-1}); }

 private:
  void turn(Rows<T>& rows, T direction) const {
    const int64_t half = cosines_.cols;
    for (int64_t t = 0; t < rows.rows; ++t) {
      for (T* head = rows.row(t); head != rows.row(t) + rows.cols; head += 2 * half) {
        for (int64_t p = 0; p < half; ++p) {
          const T cosine = cosines_.row(t)[p];
          const T sine = direction * sines_.row(t)[p];
          const T first = head[p];
          const T second = head[half + p];
          head[p] = first * cosine - second * sine;
          head[half + p] = second * cosine + first * sine;
        }
      }
    }
  }

  Rows<T> cosines_;  // [tokens, head_dim / 2]
  Rows<T> sines_;
};

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_ROTATION_H_
