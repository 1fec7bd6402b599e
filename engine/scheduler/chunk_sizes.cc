// How many rows the scheduler gives to a chunk: the shares of the classes and the limits on the
// duration of a step.
#include <algorithm>

#include "engine/scheduler/scheduler.h"
#include "engine/scheduler/step_budget.h"

namespace kascade {
namespace {

// Batch work is starved once it is behind its share of so many full steps.
constexpr int64_t kStarvedSteps = 4;

}  // namespace

StepBudget Scheduler::new_budget() const {
  StepBudget budget{.rows = limits_.max_batch_tokens, .background_rows = limits_.max_batch_tokens};
  if (limits_.max_step_seconds == 0) return budget;
  for (const Sequence* sequence : queue_.in_order()) {
    const bool is_background = sequence->rank() == Priority::kBackground;
    if (is_background || !sequence->running() || !sequence->decoding()) continue;
    budget.time = {.seconds = limits_.max_step_seconds};
    budget.features += predictor_->features(*sequence, sequence->computed, sequence->computed + 1);
  }
  return budget;
}

void Scheduler::promote_starved_batch() {
  const int64_t starved = kStarvedSteps * limits_.batch_share * limits_.max_batch_tokens;
  if (promoted_ != nullptr || owed_to_batch_ < starved) return;
  promoted_ = queue_.promote_first_batch();
}

void Scheduler::record_batch_service(const StepPlan& plan) {
  int64_t interactive = 0, batch = 0;
  for (const Slice& slice : plan.slices) {
    const Priority priority = find(slice.seq)->spec.priority;
    if (priority == Priority::kInteractive) interactive += slice.count;
    if (priority == Priority::kBatch) batch += slice.count;
  }
  const bool has_batch = std::ranges::any_of(queue_.in_order(), [](const Sequence* sequence) {
    return sequence->spec.priority == Priority::kBatch;
  });
  const int64_t share = limits_.batch_share;
  const int64_t most = 2 * kStarvedSteps * share * limits_.max_batch_tokens;
  owed_to_batch_ += share * interactive - (100 - share) * batch;
  owed_to_batch_ = has_batch ? std::clamp<int64_t>(owed_to_batch_, 0, most) : 0;
}

// Called when all other work of the step is planned.
void Scheduler::limit_background(const StepPlan& plan, StepBudget& budget) const {
  const std::vector<Sequence*>& order = queue_.in_order();
  if (order.empty() || order.back()->rank() != Priority::kBackground) return;
  const bool interactive = std::ranges::any_of(plan.slices, [&](const Slice& slice) {
    return find(slice.seq)->spec.priority == Priority::kInteractive;
  });
  if (interactive) {
    const int64_t most = int64_t{limits_.max_batch_tokens} * limits_.background_share / 100;
    budget.background_rows = static_cast<int32_t>(std::min<int64_t>(most, budget.rows));
  }
  if (predictor_ == nullptr) return;
  if (interactive) {
    StepFeatures features;
    for (const Slice& slice : plan.slices) {
      if (slice.branch != 0) continue;  // the features of branch 0 include all branches
      features += predictor_->features(*find(slice.seq), slice.begin, slice.begin + slice.count);
    }
    const double allowed =
        predictor_->seconds(features).value_or(0) * (1 + limits_.background_share / 100.0);
    const double seconds = budget.time ? std::min(allowed, budget.time->seconds) : allowed;
    budget.time = {.seconds = seconds, .grants_a_tile = false, .limits_unknown = true};
    budget.features = features;
  } else if (plan.slices.empty() && limits_.max_background_step_seconds > 0) {
    budget.time = {.seconds = limits_.max_background_step_seconds,
                   .spares_whole_chunks = true,
                   .limits_unknown = true};
    budget.features = {};
  }
}

// The rows that the chunk of a sequence may have, over all branches.
int32_t Scheduler::chunk_rows(const Sequence& sequence, const StepBudget& budget) const {
  const LowerPriorityUsage others = lower_priority_usage(sequence);
  const int32_t least = sequence.spec.branches * sequence.spec.query_tile;
  int32_t rows = budget.rows - others.decode_rows;
  if (sequence.promoted) {
    return std::min(rows, std::max(rows_of_promoted(), rows - others.chunk_rows));
  }
  if (sequence.rank() == Priority::kInteractive && !budget.promoted_is_served) {
    rows -= std::clamp(rows - least, 0, rows_of_promoted());
  }
  if (sequence.rank() == Priority::kBackground) rows = std::min(rows, budget.background_rows);
  return rows;
}

// The rows that are kept for the promoted sequence while other work could fill the step.
int32_t Scheduler::rows_of_promoted() const {
  if (promoted_ == nullptr || promoted_->decoding()) return 0;
  const SequenceSpec& spec = promoted_->spec;
  const int64_t share = int64_t{limits_.max_batch_tokens} * limits_.batch_share / 100;
  return std::min(spec.branches * promoted_->remaining(),
                  std::max(spec.branches * spec.query_tile, static_cast<int32_t>(share)));
}

// The end of a slice of at most `rows` rows; `computed` if there is no room for any.
int32_t Scheduler::chunk_end(const Sequence& sequence, int32_t rows,
                             const StepBudget& budget) const {
  const SequenceSpec& spec = sequence.spec;
  const int32_t tile_part_end = std::min(spec.prefill_end, sequence.feed_end());
  const int32_t most = std::min(sequence.feed_end(), sequence.computed + rows);
  if (most < tile_part_end) {
    return std::max(sequence.computed, most / spec.query_tile * spec.query_tile);
  }
  if (!sequence.limits_per_query_rows()) return most;
  const int32_t row_part_begin = std::max(sequence.computed, tile_part_end);
  const int32_t per_query_rows = std::max(0, spec.max_per_query_rows - budget.per_query_rows);
  return std::min(most, row_part_begin + per_query_rows);
}

// The end of the part of a chunk [computed, end) that the step has time for; `chunk` receives the
// features of that part.
int32_t Scheduler::chunk_end_within_step_time(const Sequence& sequence, int32_t end,
                                              const StepBudget& budget, StepFeatures& chunk) const {
  const int32_t tile = sequence.spec.query_tile;
  const StepBudget::Time& limit = *budget.time;
  StepFeatures all = budget.features;
  int32_t reached = sequence.computed;
  while (reached < end) {
    const int32_t next = std::min(end, (reached / tile + 1) * tile);
    const StepFeatures part = predictor_->features(sequence, reached, next);
    all += part;
    const bool granted = limit.grants_a_tile && reached == sequence.computed && !budget.has_chunk;
    const std::optional<double> seconds = predictor_->seconds(all);
    const bool too_long = seconds ? *seconds > limit.seconds : limit.limits_unknown;
    if (!granted && too_long) break;
    chunk += part;
    reached = next;
  }
  return reached;
}

}  // namespace kascade
