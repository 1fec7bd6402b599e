// What rows of logits say about given tokens, gathered over tiles of the vocabulary, so that no
// [rows, vocabulary] array ever exists.
#ifndef KASCADE_ENGINE_BACKEND_LOGIT_STATISTICS_H_
#define KASCADE_ENGINE_BACKEND_LOGIT_STATISTICS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/backend/tensor.h"
#include "engine/base/types.h"

namespace kascade {

struct TokenLogit {
  Token token = 0;
  float logit = 0;
};

// Of one row. Sums are in f64.
struct RowStatistics {
  double log_sum = 0;  // log Σ exp(logit), so that logprob = logit − log_sum
  float target = 0;    // logit of the target token
  Token best = 0;      // token of the largest logit; ties → lowest id
  int32_t above = 0;   // tokens that rank before the target (logit, then id); needs add_ranks()
  bool finite = true;  // all logits and their sum are; else nothing else here means anything
  // Σ p(token) · (logit − logit of the other run); needs add_difference().
  double expected_difference = 0;
  std::vector<TokenLogit> top{};  // the most likely tokens, best first
};

// Lives in the memory of the backend that made it (Backend::make_logit_statistics) and is used
// again from call to call. Order of calls: start(), then add() and add_difference() for each tile
// of the vocabulary in ascending order, then add_ranks() for each tile if ranks are wanted, then
// read(). Logits are f32 [rows, tile], of the same backend; rows = the number of targets.
class LogitStatistics {
 public:
  virtual ~LogitStatistics() = default;
  // Row i is to predict targets[i]; the `candidates` most likely tokens of each row are kept.
  virtual void start(std::span<const Token> targets, int32_t candidates) = 0;
  virtual void add(Tensor logits, Token first_token) = 0;
  virtual void add_difference(Tensor logits, Tensor other) = 0;
  virtual void add_ranks(Tensor logits, Token first_token) = 0;
  // Downloads; [rows].
  virtual std::vector<RowStatistics> read() = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_LOGIT_STATISTICS_H_
