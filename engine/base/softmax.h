// What a softmax over a row of logits needs, in loops that compilers turn into vector instructions:
// rows are as long as a vocabulary.
#ifndef KASCADE_ENGINE_BASE_SOFTMAX_H_
#define KASCADE_ENGINE_BASE_SOFTMAX_H_

#include <cstdint>
#include <span>

namespace kascade {

// Index of the first value that is infinite or NaN; −1 if all are finite.
int64_t first_not_finite(std::span<const float> values);

// Index of the largest value, the first of equals. At least one value, all finite.
int64_t largest_of(std::span<const float> values);

// Σ exp(value − max), each term within 3 ulp of itself in f32 (0 below e⁻⁸⁷), the sum in f64. No
// value may be larger than max.
double exponential_sum(std::span<const float> values, float max);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BASE_SOFTMAX_H_
