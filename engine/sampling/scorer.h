// Log-probabilities of given tokens from hidden states. It works in tiles of rows and of the
// vocabulary, so that no [tokens, vocabulary] array ever exists: memory is bounded by kScorerRows ·
// the widest tile of the head, whatever the length of the text. Log-softmax is in f32, with sums in
// f64.
#ifndef KASCADE_ENGINE_SAMPLING_SCORER_H_
#define KASCADE_ENGINE_SAMPLING_SCORER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
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

  // Scores targets[i], the token that row i should predict. `hidden` is f32 [targets.size(),
  // hidden] in the backend's memory. In the request, targets[i] has index first_target + i;
  // INTERNAL names it if its logits are not finite.
  absl::StatusOr<std::vector<ScoredToken>> score(Tensor hidden, std::span<const Token> targets,
                                                 int32_t first_target, const ScoreOptions& options);

  struct Compared {
    std::vector<ScoredToken> first;
    std::vector<TokenComparison> comparisons;
  };
  // Scores the same positions of two runs. Only the first run's tokens have `top` candidates.
  absl::StatusOr<Compared> compare(Tensor first_hidden, Tensor second_hidden,
                                   std::span<const Token> targets, int32_t first_target,
                                   const ScoreOptions& options);

 private:
  // One run's part of a tile of rows.
  struct Run {
    Tensor hidden;
    Buffer& logits;
    LogitStatistics& statistics;
  };
  // Multiplies by all tiles of the head and accumulates the statistics. A second run's logits are
  // also subtracted from the first run's.
  void add_logits(std::span<const Run> runs);
  void add_ranks(const Run& run);

  Transformer& transformer_;
  Buffer logits_;         // [kScorerRows, widest head tile]
  Buffer second_logits_;  // the same for the second run
  std::unique_ptr<LogitStatistics> statistics_;
  std::unique_ptr<LogitStatistics> second_statistics_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SAMPLING_SCORER_H_
