// Sums over scored tokens and the figures that follow from them.
#ifndef KASCADE_SERVER_SCORE_TOTALS_H_
#define KASCADE_SERVER_SCORE_TOTALS_H_

#include <cstdint>
#include <span>

#include "engine/engine.h"
#include "kascade/v1/score.pb.h"

namespace kascade::server {

struct ScoreTotals {
  int64_t tokens = 0;  // scored
  int64_t words = 0;   // that they stand for
  int64_t bytes = 0;   // likewise
  double nll = 0;
  double nll_squares = 0;
  int64_t top1 = 0;
  double sparse_nll = 0;  // the rest: comparisons only
  double sparse_nll_squares = 0;
  double difference_squares = 0;  // of log-probabilities
  double kl = 0;
  double kl_squares = 0;
  double max_kl = 0;
  int64_t same_top1 = 0;
  double max_difference = 0;
  AttentionCounts counts{};

  void add(const ScoredToken& token);
  void add(const ScoredToken& token, const TokenComparison& comparison);
  ScoreTotals& operator+=(const ScoreTotals& other);
};

// Sparse − dense log-probability.
float logprob_difference(const ScoredToken& token, const TokenComparison& comparison);

// Fills the figures of `out` but the comparisons. A model that is hardly better than guessing over
// `vocab` tokens is suspect.
void summarize(const ScoreTotals& totals, int32_t vocab, v1::ScoreSummary& out);

// Fills `out`; no degradation is told of a suspect model. Reorders `differences`, one for each
// token.
void compare(const ScoreTotals& totals, bool suspect, std::span<float> differences,
             v1::Comparison& out);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_SCORE_TOTALS_H_
