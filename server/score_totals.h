// Sums over scored tokens and the figures that follow from them.
#ifndef KASCADE_SERVER_SCORE_TOTALS_H_
#define KASCADE_SERVER_SCORE_TOTALS_H_

#include <cstdint>

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
  double kl = 0;
  int64_t same_top1 = 0;
  double max_difference = 0;
  AttentionCounts counts{};

  void add(const ScoredToken& token);
  void add(const ScoredToken& token, const Comparison& comparison);
  ScoreTotals& operator+=(const ScoreTotals& other);
};

// Fills the figures of `out`. A model that is hardly better than guessing over `vocab` tokens is
// suspect, and no degradation is told then.
void summarize(const ScoreTotals& totals, bool compared, int32_t vocab, v1::ScoreSummary& out);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_SCORE_TOTALS_H_
