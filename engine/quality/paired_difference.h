// How much worse one run of a model predicts the same tokens than another (docs/method.md,
// "Comparison statistics"). Differences are taken token by token, so that tokens that are hard for
// both runs cancel.
#ifndef KASCADE_ENGINE_QUALITY_PAIRED_DIFFERENCE_H_
#define KASCADE_ENGINE_QUALITY_PAIRED_DIFFERENCE_H_

#include <cmath>
#include <cstdint>

#include "engine/quality/standard_error.h"

namespace kascade {

// The mean over tokens of a difference of −log p, and the standard error of this mean [nats per
// token].
struct PairedDifference {
  double mean = 0;
  double error = 0;
};

// From the sum of the differences and the sum of their squares over `tokens` tokens.
inline PairedDifference paired_difference(double sum, double squares, int64_t tokens) {
  return {.mean = sum / static_cast<double>(tokens), .error = standard_error(sum, squares, tokens)};
}

// The rise of perplexity [percent] where −log p rises by `rise`.
inline double degradation_percent(const PairedDifference& rise) {
  return 100 * (std::exp(rise.mean) - 1);
}

// The standard error of degradation_percent, by the delta method.
inline double degradation_error_percent(const PairedDifference& rise) {
  return 100 * std::exp(rise.mean) * rise.error;
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_QUALITY_PAIRED_DIFFERENCE_H_
