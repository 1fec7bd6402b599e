// Statistics of logits at given target tokens. They are accumulated over tiles of the vocabulary,
// so that no [rows, vocabulary] array ever exists.
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

// The statistics of one row of logits. Sums are in f64.
struct RowStatistics {
  double log_sum = 0;  // log Σ exp(logit); logprob = logit − log_sum
  float target = 0;    // logit of the target token
  Token best = 0;      // token with the largest logit; of equal ones the lowest id
  int32_t above = 0;   // tokens ranked before the target (by logit, then id); set by add_ranks()
  bool finite = true;  // all logits and their sum are finite; else the other fields are undefined
  // Σ p(token) · (logit − logit of the other run); set by add_difference().
  double expected_difference = 0;
  std::vector<TokenLogit> top{};  // the most likely tokens, best first
};

// Accumulates the statistics in the memory of the backend that made it
// (Backend::make_logit_statistics); one object serves any number of passes. Order of calls in a
// pass: start(); add() and, if wanted, add_difference() for each tile of the vocabulary in
// ascending order; add_ranks() for each tile if ranks are wanted; read(). Logits are f32 [rows,
// tile] tensors of the same backend, with as many rows as there are targets.
class LogitStatistics {
 public:
  virtual ~LogitStatistics() = default;
  // Starts a pass in which row i should predict targets[i]. The `candidates` most likely tokens of
  // each row are kept.
  virtual void start(std::span<const Token> targets, int32_t candidates) = 0;
  virtual void add(Tensor logits, Token first_token) = 0;
  virtual void add_difference(Tensor logits, Tensor other) = 0;
  virtual void add_ranks(Tensor logits, Token first_token) = 0;
  // Downloads the statistics of all rows.
  virtual std::vector<RowStatistics> read() = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_LOGIT_STATISTICS_H_
