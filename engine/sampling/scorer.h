// Log-probabilities of given tokens from hidden states, folded over tiles of rows and of the
// vocabulary, so that no [tokens, vocabulary] array ever exists: memory is bounded by
// kScorerRows · the widest head tile, whatever the text's length. Log-softmax in f32 (sums in f64).
#ifndef KASCADE_ENGINE_SAMPLING_SCORER_H_
#define KASCADE_ENGINE_SAMPLING_SCORER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/backend/tensor.h"
#include "engine/model/transformer.h"
#include "engine/sampling/scored_token.h"

namespace kascade {

inline constexpr int32_t kScorerRows = 64;

struct ScoreOptions {
  bool want_ranks = false;
  int32_t top_logprobs = 0;
};

class Scorer {
 public:
  explicit Scorer(Transformer& transformer);

  // hidden f32 [targets.size(), hidden]: targets[i] is the token that row i should predict, and the
  // request's token number first_target + i. INTERNAL, naming it, for logits that are not finite.
  absl::StatusOr<std::vector<ScoredToken>> score(Tensor hidden, std::span<const Token> targets,
                                                 int32_t first_target, const ScoreOptions& options);

  struct Compared {
    std::vector<ScoredToken> dense;
    std::vector<Comparison> comparisons;
  };
  // The same positions run dense and sparse; KL is folded in the same pass. Only the dense tokens
  // have candidates.
  absl::StatusOr<Compared> compare(Tensor dense_hidden, Tensor sparse_hidden,
                                   std::span<const Token> targets, int32_t first_target,
                                   const ScoreOptions& options);

 private:
  Transformer& transformer_;
  Buffer logits_;        // [kScorerRows, widest head tile]
  Buffer other_logits_;  // likewise, of the sparse run
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SAMPLING_SCORER_H_
