// The parts of a softmax over a row of logits, as loops that compilers vectorise, because a row is
// as long as the vocabulary.
#ifndef KASCADE_ENGINE_BASE_SOFTMAX_H_
#define KASCADE_ENGINE_BASE_SOFTMAX_H_

#include <cstdint>
#include <span>

namespace kascade {

// The index of the first value that is infinite or NaN; −1 if all are finite.
int64_t first_not_finite(std::span<const float> values);

// The index of the largest value; of equal ones the first. There must be at least one value, and
// all must be finite.
int64_t largest_of(std::span<const float> values);

// Σ exp(value − max). Each term is computed in f32 within 3 ulp (0 below e⁻⁸⁷), the sum in f64. No
// value may be larger than max.
double exponential_sum(std::span<const float> values, float max);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BASE_SOFTMAX_H_
