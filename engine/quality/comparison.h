// Sums over the tokens of a comparison of two runs, and the statistics that follow from them
// (docs/method.md, "Comparison statistics").
#ifndef KASCADE_ENGINE_QUALITY_COMPARISON_H_
#define KASCADE_ENGINE_QUALITY_COMPARISON_H_

#include <cmath>
#include <cstdint>

#include "engine/quality/paired_difference.h"
#include "engine/quality/perplexity.h"

namespace kascade {

// Over the scored tokens of two runs of the same windows. In a quality check the first run is dense
// and the second sparse.
struct ComparisonSums {
  int64_t tokens = 0;
  double first_nll = 0;           // −log p in the first run [nats]
  double second_nll = 0;          // −log p in the second run [nats]
  double difference_squares = 0;  // squares of the difference between the two
  double kl = 0;                  // KL(first ‖ second) [nats]
  int64_t same_top1 = 0;          // tokens at which both runs have the same most likely token

  void add(double first_logprob, double second_logprob, double token_kl, bool token_same_top1) {
    const double difference = second_logprob - first_logprob;
    ++tokens;
    first_nll -= first_logprob;
    second_nll -= second_logprob;
    difference_squares += difference * difference;
    kl += token_kl;
    same_top1 += token_same_top1 ? 1 : 0;
  }
  ComparisonSums& operator+=(const ComparisonSums& other) {
    tokens += other.tokens;
    first_nll += other.first_nll;
    second_nll += other.second_nll;
    difference_squares += other.difference_squares;
    kl += other.kl;
    same_top1 += other.same_top1;
    return *this;
  }
};

inline double mean_kl(const ComparisonSums& sums) {
  return sums.kl / static_cast<double>(sums.tokens);
}

inline double same_top1_ratio(const ComparisonSums& sums) {
  return static_cast<double>(sums.same_top1) / static_cast<double>(sums.tokens);
}

// By how much −log p is higher in the second run.
inline PairedDifference nll_rise(const ComparisonSums& sums) {
  return paired_difference(sums.second_nll - sums.first_nll, sums.difference_squares, sums.tokens);
}

// Whether a sparse run loses no more than is allowed: its perplexity is finite, and the rise of the
// perplexity and the standard error of this rise are at most the limit together [percent].
inline bool loses_little(double sparse_perplexity, double degradation_percent,
                         double degradation_error_percent, double max_degradation_percent) {
  return std::isfinite(sparse_perplexity) &&
         degradation_percent + degradation_error_percent <= max_degradation_percent;
}

// What decides whether the perplexity of a sparse run passes a quality check.
struct QualityFigures {
  bool drops_keys = false;  // the sparse run attended to fewer keys than the dense run
  bool suspect = false;     // is_suspect() of the dense run
  double sparse_perplexity = 0;
  double degradation_percent = 0;
  double degradation_error_percent = 0;
};

inline bool passes_quality_check(const QualityFigures& figures, double max_degradation_percent) {
  return figures.drops_keys && !figures.suspect &&
         loses_little(figures.sparse_perplexity, figures.degradation_percent,
                      figures.degradation_error_percent, max_degradation_percent);
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_QUALITY_COMPARISON_H_
