// What the model predicts about one token of a text.
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
  // Natural log, from an f32 log-softmax over the whole vocabulary; NaN if a Generate request did
  // not ask for it.
  float logprob = 0;
  int32_t rank = 0;  // 1 = most likely; 0 if the request did not ask for it
  bool is_top1 = false;
  std::vector<Candidate> top{};  // most likely first
};

// What two runs of the same tokens with different attention predict at one position. The first
// run's token is in Event::tokens.
struct TokenComparison {
  ScoredToken second{};  // the second run; `top` is empty
  float kl = 0;          // KL(first ‖ second), nats
  bool same_top1 = false;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SAMPLING_SCORED_TOKEN_H_
