// Perplexity, and whether a model understands a text at all (docs/method.md, "Scoring protocols").
#ifndef KASCADE_ENGINE_QUALITY_PERPLEXITY_H_
#define KASCADE_ENGINE_QUALITY_PERPLEXITY_H_

#include <cmath>
#include <cstdint>

namespace kascade {

// The mean of `nll_sum`, the sum of −log p over `tokens` scored tokens [nats per token].
inline double mean_nll(double nll_sum, int64_t tokens) {
  return nll_sum / static_cast<double>(tokens);
}

inline double perplexity(double mean_nll) { return std::exp(mean_nll); }

// Whether a model with this mean NLL is hardly better than guessing among `vocab` tokens. A mean
// that is not a number is suspect, too.
inline bool is_suspect(double mean_nll, int32_t vocab) {
  return !(mean_nll <= std::log(static_cast<double>(vocab)) - 1);
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_QUALITY_PERPLEXITY_H_
