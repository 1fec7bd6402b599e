// Draws the next token from a row of logits. All functions are pure: the random number is a hash of
// (seed, step), so the tokens of a request do not depend on what else is in the batch.
#ifndef KASCADE_ENGINE_SAMPLING_SAMPLER_H_
#define KASCADE_ENGINE_SAMPLING_SAMPLER_H_

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "engine/sampling/parameters.h"
#include "engine/sampling/scored_token.h"

namespace kascade {

// Draws token number `step` of the text, in the order of application that Sampling documents. Each
// filter sees what the one before it left; top_p and min_p use the remaining probabilities. The
// best token is never filtered out. Of equal logits the lower id ranks first. is_top1 and, with
// want_logprobs or top_logprobs, logprob, rank and top are the model's own: they come from the
// log-softmax of the unmodified logits.
//
// The repetition penalty counts prompt and generated tokens, the other two only generated tokens.
// If the stop tokens that min_new_tokens bans are the whole vocabulary, the ban is ignored and the
// model's best token is returned.
//
// INTERNAL, naming the token, if a logit is not finite. `params` must be valid (engine/request.h).
absl::StatusOr<ScoredToken> sample(std::span<const float> logits, const Generate& params,
                                   std::span<const Token> prompt, std::span<const Token> generated,
                                   uint64_t step);

// The random number of that draw, in [0, 1).
double uniform(uint64_t seed, uint64_t step);

}  // namespace kascade

#endif  // KASCADE_ENGINE_SAMPLING_SAMPLER_H_
