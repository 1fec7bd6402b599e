// How many of the same questions two runs of a model answer, and whether the second run answers too
// few of them (docs/method.md, "Retrieval").
#ifndef KASCADE_ENGINE_QUALITY_RETRIEVAL_H_
#define KASCADE_ENGINE_QUALITY_RETRIEVAL_H_

#include <cmath>
#include <cstdint>

namespace kascade {

// Of questions that were asked with dense and with sparse attention.
struct RetrievalCounts {
  int64_t asked = 0;
  int64_t dense = 0;   // answered with dense attention
  int64_t lost = 0;    // answered with dense attention only
  int64_t gained = 0;  // answered with sparse attention only

  int64_t sparse() const { return dense - lost + gained; }
  int64_t missing() const { return lost - gained; }  // negative if sparse attention answers more
  RetrievalCounts& operator+=(const RetrievalCounts& other) {
    asked += other.asked;
    dense += other.dense;
    lost += other.lost;
    gained += other.gained;
    return *this;
  }
};

// Returns the p-value of the exact one-sided sign test: how probable it is, if each of the
// questions on which the two runs disagree is a fair coin, that at least so many of them are lost.
// It is 1 if they agree on all.
inline double sign_test_p_value(int64_t lost, int64_t gained) {
  const auto all = static_cast<double>(lost + gained);
  double tail = 0;
  // Binomial coefficients by logarithms, because they exceed a double from 1,030 questions on.
  for (auto i = static_cast<double>(lost); i <= all; ++i) {
    tail += std::exp(std::lgamma(all + 1) - std::lgamma(i + 1) - std::lgamma(all - i + 1) -
                     all * std::log(2.0));
  }
  return std::fmin(1.0, tail);
}

// Whether dense attention answers at least half of the questions. Otherwise nothing can be said
// about what sparse attention loses.
inline bool is_measurable(const RetrievalCounts& counts) {
  return counts.asked > 0 && 2 * counts.dense >= counts.asked;
}

// Whether sparse attention answers enough of the questions. It does not if it misses more than 2
// points of a hundred and the sign test says that this is no chance (p < 0.05), or if it misses at
// least two questions and more than 10 points.
inline bool retrieves_enough(const RetrievalCounts& counts) {
  constexpr int64_t kAllowedPoints = 2, kMostPoints = 10;
  constexpr int64_t kLeastMissing = 2;
  constexpr double kSignificance = 0.05;
  const int64_t missing = counts.missing();
  const bool is_significant = sign_test_p_value(counts.lost, counts.gained) < kSignificance;
  if (100 * missing > kAllowedPoints * counts.asked && is_significant) return false;
  return missing < kLeastMissing || 100 * missing <= kMostPoints * counts.asked;
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_QUALITY_RETRIEVAL_H_
