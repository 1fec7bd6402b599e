// The sampling parameters of a request that generates text.
#ifndef KASCADE_ENGINE_SAMPLING_PARAMETERS_H_
#define KASCADE_ENGINE_SAMPLING_PARAMETERS_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/base/types.h"

namespace kascade {

// How the next token is drawn from a row of logits. Parameters apply in this order: logit_bias,
// penalties, min_new_tokens (which bans the stop tokens), then temperature, top_k, top_p, min_p.
// Reported log-probabilities are those of the model, before all of this.
struct Sampling {
  double temperature = 1.0;         // ≥ 0; 0 = greedy (arg-max, ties → lowest id)
  int32_t top_k = 0;                // 0 = all
  double top_p = 1.0;               // (0, 1]
  double min_p = 0.0;               // [0, 1]: drops p < min_p · p_max
  double repetition_penalty = 1.0;  // > 0; divides positive, multiplies negative logits of seen ids
  double presence_penalty = 0.0;    // [-2, 2]; over generated tokens
  double frequency_penalty = 0.0;   // [-2, 2]; over generated tokens, per occurrence
  uint64_t seed = 0;
  std::vector<std::pair<Token, float>> logit_bias{};  // added to the logit; [-100, 100]
};

struct Generate {
  Sampling sampling{};
  int32_t max_new_tokens = 256;  // ≥ 1
  int32_t min_new_tokens = 0;    // stop tokens are banned before this many were generated
  std::vector<Token> stop_tokens{};
  bool want_logprobs = false;
  int32_t top_logprobs = 0;  // [0, 20] candidates to return with each token
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SAMPLING_PARAMETERS_H_
