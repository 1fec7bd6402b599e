// Combines the totals of several Score requests to what one request for all their texts would tell.
#ifndef KASCADE_CLIENT_RPC_SCORE_TOTALS_H_
#define KASCADE_CLIENT_RPC_SCORE_TOTALS_H_

#include <cstdint>
#include <vector>

#include "kascade/v1/score.pb.h"

namespace kascade::client {

// The requests must differ in their inputs only. Sums, means and errors are those of one request
// but for rounding. Percentiles need the tokens of all requests; the comparison by per-tile
// selection, whose tokens are not sent, has none.
class ScoreTotals {
 public:
  explicit ScoreTotals(int32_t vocab_size) : vocab_size_(vocab_size) {}

  // `tokens` of each input; empty unless the request compares.
  void add(const v1::ScoreSummary& total, const std::vector<std::vector<v1::ScoreTokens>>& tokens);
  v1::ScoreSummary total();

 private:
  std::vector<v1::ScoreSummary> totals_;
  std::vector<float> differences_;  // second − first log-probability of each token
  int32_t vocab_size_;
};

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_RPC_SCORE_TOTALS_H_
