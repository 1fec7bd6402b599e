// Draws the next token from a row of logits. Pure functions: the only randomness is the hash of
// (seed, step), so that a request's tokens depend on nothing else that is in the batch.
#ifndef KASCADE_ENGINE_SAMPLING_SAMPLER_H_
#define KASCADE_ENGINE_SAMPLING_SAMPLER_H_

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "engine/sampling/parameters.h"
#include "engine/sampling/scored_token.h"

namespace kascade {

// Token number `step` of the text, in the order of application that Sampling documents: each filter
// judges what the one before left, top_p and min_p by its probabilities. The best token is never
// filtered. Equal logits rank by id, lowest first. is_top1, and with want_logprobs or top_logprobs
// logprob, rank and top, are the model's own: log-softmax of the untouched logits.
//
// The repetition penalty sees prompt and generated tokens, the other two generated tokens only. If
// the stop tokens that min_new_tokens bans are the whole vocabulary, the ban cannot hold and the
// model's own best token is returned.
//
// INTERNAL, naming the token, for a logit that is not finite. `params` must be valid
// (engine/request.h).
absl::StatusOr<ScoredToken> sample(std::span<const float> logits, const Generate& params,
                                   std::span<const Token> prompt, std::span<const Token> generated,
                                   uint64_t step);

// The random number behind that draw, in [0, 1).
double uniform(uint64_t seed, uint64_t step);

}  // namespace kascade

#endif  // KASCADE_ENGINE_SAMPLING_SAMPLER_H_
