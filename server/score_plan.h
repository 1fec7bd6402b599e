// What a Score asks for: the sequences and how each is cut into windows.
#ifndef KASCADE_SERVER_SCORE_PLAN_H_
#define KASCADE_SERVER_SCORE_PLAN_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "kascade/v1/score.pb.h"
#include "server/score_input.h"
#include "server/translate.h"

namespace kascade::server {

struct ScorePlan {
  std::vector<ScoreSequence> inputs{};
  AskedAttention attention{};
  std::shared_ptr<const Schedule> schedule{};  // null when dense
  SelectionGranularity phase = SelectionGranularity::kPerQuery;
  bool tile_comparison = false;  // beside the one by the row rule
  ScoreCut cut{};                // after defaults
  bool send_tokens = false;
  bool send_ranks = false;
  int32_t top_logprobs = 0;
  absl::Time deadline{};

  // How often each window runs.
  size_t passes() const { return tile_comparison ? 2 : 1; }
  // Over all inputs.
  int64_t tokens_to_score() const;
  int32_t windows() const;
};

// INVALID_ARGUMENT naming field, limit and value; FAILED_PRECONDITION: sparse without a schedule.
absl::StatusOr<ScorePlan> plan_score(const v1::ScoreRequest& in, const Engine& engine,
                                     absl::Time deadline);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_SCORE_PLAN_H_
