// What the model says about one token of a text.
#ifndef KASCADE_ENGINE_SAMPLING_SCORED_TOKEN_H_
#define KASCADE_ENGINE_SAMPLING_SCORED_TOKEN_H_

#include <cstdint>
#include <vector>

#include "engine/base/types.h"

namespace kascade {

struct Candidate {
  Token token = 0;
  float logprob = 0;  // natural log
};

struct ScoredToken {
  Token token = 0;
  // Natural log, by f32 log-softmax over the whole vocabulary; NaN if a Generate did not ask.
  float logprob = 0;
  int32_t rank = 0;  // 1 = most likely; 0 = not asked for
  bool is_top1 = false;
  std::vector<Candidate> top{};  // most likely first
};

// What two runs of the same tokens under different attention say about one position. The first
// run's token stands beside it (Event::tokens).
struct TokenComparison {
  ScoredToken second{};  // of the second run; without `top`
  float kl = 0;          // KL(first ‖ second), nats
  bool same_top1 = false;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SAMPLING_SCORED_TOKEN_H_
