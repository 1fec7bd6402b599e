// What is left to give out while a step is planned.
#ifndef KASCADE_ENGINE_SCHEDULER_STEP_BUDGET_H_
#define KASCADE_ENGINE_SCHEDULER_STEP_BUDGET_H_

#include <cstdint>
#include <optional>

#include "engine/scheduler/step_cost.h"

namespace kascade {

// The rows and the time that one plan() can still give out.
struct StepBudget {
  struct Time {
    double seconds = 0;                // the step is not to be predicted longer
    bool grants_a_tile = true;         // the first chunk has a query tile in any case
    bool spares_whole_chunks = false;  // SequenceSpec::has_whole_chunks is exempt
    bool limits_unknown = false;       // a step whose duration is not predicted is too long, too
  };

  int32_t rows = 0;             // rows left, over all branches
  int32_t background_rows = 0;  // of these, the most that background work may have
  int32_t per_query_rows = 0;   // given to sequences that limit them
  std::optional<Time> time{};   // set if the durations of chunks are limited
  StepFeatures features{};      // the work of the step so far, if they are
  bool has_chunk = false;
  bool may_start = true;  // false once a sequence got nothing: no later sequence may overtake it
  bool promoted_is_served = false;
};

// What the sequences that follow a given one in the order of precedence hold or need.
struct LowerPriorityUsage {
  int32_t blocks = 0;
  int32_t branches = 0;
  int32_t decode_rows = 0;  // rows that those of the same rank need to decode
  int32_t chunk_rows = 0;   // rows that the others of this rank have yet to feed, also waiting ones
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_STEP_BUDGET_H_
