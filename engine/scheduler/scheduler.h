// The scheduler decides what each step computes: plan() chooses rows and blocks within one token
// budget, and commit() records what the step did. It is single-threaded and has no clock, device or
// tokenizer, so that tests can script it line by line.
#ifndef KASCADE_ENGINE_SCHEDULER_SCHEDULER_H_
#define KASCADE_ENGINE_SCHEDULER_SCHEDULER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/types.h"
#include "engine/cache/blocks.h"
#include "engine/scheduler/sequence.h"
#include "engine/scheduler/sequence_queue.h"
#include "engine/scheduler/step_cost.h"

namespace kascade {

// A run of rows of one branch of a sequence: its tokens [begin, begin + count).
struct Slice {
  SeqId seq = 0;
  int32_t branch = 0;
  int32_t begin = 0;
  int32_t count = 0;
  // Logits are computed for the rows from this absolute position on, and for none if it is ≥ begin
  // + count. Rows whose logits were delivered before their sequence was preempted are not asked for
  // again.
  int32_t first_logit = 0;
};

struct StepPlan {
  // Decode rows come first, then chunks. The branches of a sequence are neighbours and have the
  // same rows.
  std::vector<Slice> slices{};
  // Sequences past their deadline. The scheduler no longer has them, and their blocks are free.
  std::vector<std::unique_ptr<Sequence>> expired{};
  bool empty() const { return slices.empty(); }
};

// The result of a step for one sequence: a generated token, the end of the sequence, or both.
struct Outcome {
  SeqId seq = 0;
  std::optional<Token> generated{};
  // Ended by a stop token or an error. commit() itself notices the end of a text and max_tokens.
  bool finished = false;
};

struct SchedulerLimits {
  int32_t max_batch_tokens = 512;  // rows of one step, all branches; ≥ max_sequences + 2 · 128
  int32_t max_sequences = 32;      // most running at once; each branch counts
  int32_t context = 4096;          // context length of the model, tokens
  // While a sequence decodes, chunks are shortened so that the step is not expected to take longer
  // than this; the first chunk has at least one query tile. 0 = no limit.
  double max_step_seconds = 0;
  // Percent of max_batch_tokens, in [1, 50], that are kept for one batch sequence while interactive
  // work could fill every step, once batch work was starved; at least a query tile.
  int32_t batch_share = 10;
  // Percent, ≥ 0: background work adds at most this share of max_batch_tokens to the rows of a step
  // that has interactive rows, and at most this share to its predicted duration. While the duration
  // is not known, it adds nothing.
  int32_t background_share = 25;
  // A step of background work alone is not expected to take longer than this, but has at least one
  // query tile, because an interactive request may arrive and wait for its end. 0 = no limit.
  double max_background_step_seconds = 0.5;
};

// Predicts the duration of a step, for the limits on durations.
class StepTimePredictor {
 public:
  virtual ~StepTimePredictor() = default;
  // What rows [begin, end) of all branches of a sequence add to a step.
  virtual StepFeatures features(const Sequence& sequence, int32_t begin, int32_t end) const = 0;
  // The predicted duration; unset while it is not known, in which case no chunk is shortened.
  virtual std::optional<double> seconds(const StepFeatures& step) const = 0;
};

struct StepBudget;
struct LowerPriorityUsage;

class Scheduler {
 public:
  // CHECKs the limits. `blocks` and `predictor` must outlive the scheduler. Without a `predictor`
  // max_step_seconds must be 0, and no duration is limited.
  Scheduler(const SchedulerLimits& limits, BlockAllocator& blocks,
            const StepTimePredictor* predictor = nullptr);

  // FAILED_PRECONDITION: check_fits(). The caller limits how many sequences may wait.
  absl::Status admit(SeqId id, SequenceSpec spec,
                     std::unique_ptr<SequenceAttachment> attachment = nullptr);
  // Removes the sequence and frees its blocks; allowed at any time, also between plan() and
  // commit(). Null if the id is unknown.
  std::unique_ptr<Sequence> cancel(SeqId id);
  // All ids, in the order of precedence.
  std::vector<SeqId> ids() const;

  // Releases sequences past their deadline, then gives out rows and blocks in the order of
  // precedence (SequenceQueue), reserving one row per branch for each sequence of the same rank
  // that decodes. Interactive work that fills every step leaves batch work its share, and starves
  // background work, never the other way round.
  StepPlan plan(absl::Time now);

  // Records a step and returns the sequences that ended with it (finished, text completely fed, or
  // max_tokens reached); their blocks are free. `outcomes` has one entry for each generating
  // sequence whose last token was fed (a token, or finished) and for each sequence that ended for
  // another reason. Sequences cancelled since plan() are skipped.
  std::vector<std::unique_ptr<Sequence>> commit(const StepPlan& plan,
                                                std::span<const Outcome> outcomes);

  const Sequence* find(SeqId id) const;  // null if unknown
  // All sequences, in the order of precedence. Valid until the next call that is not const.
  const std::vector<Sequence*>& in_order() const { return queue_.in_order(); }
  bool empty() const { return sequences_.empty(); }
  int32_t running() const;  // sequences with blocks
  int32_t waiting() const;
  int32_t waiting(Priority priority) const;
  int64_t waiting_tokens() const;  // tokens that waiting sequences have yet to feed
  int64_t waiting_tokens(Priority priority) const;
  int64_t preemptions() const { return preemptions_; }

 private:
  Sequence* find_mutable(SeqId id);
  std::unique_ptr<Sequence> release(SeqId id);
  LowerPriorityUsage lower_priority_usage(const Sequence& sequence) const;
  StepBudget new_budget() const;
  // Promotes a batch sequence if batch work was starved.
  void promote_starved_batch();
  void record_batch_service(const StepPlan& plan);
  void limit_background(const StepPlan& plan, StepBudget& budget) const;
  void start_waiting(Priority rank, StepBudget& budget, StepPlan& plan);
  void plan_sequence(Sequence& sequence, StepBudget& budget, StepPlan& plan);
  void take(const Sequence& sequence, int32_t end, StepBudget& budget, StepPlan& plan) const;
  int32_t chunk_rows(const Sequence& sequence, const StepBudget& budget) const;
  int32_t rows_of_promoted() const;
  int32_t chunk_end(const Sequence& sequence, int32_t rows, const StepBudget& budget) const;
  int32_t chunk_end_within_step_time(const Sequence& sequence, int32_t end,
                                     const StepBudget& budget, StepFeatures& chunk) const;
  bool reserve(Sequence& sequence, int32_t tokens);
  void preempt_last(const Sequence& requester);
  int32_t running_branches() const;

  SchedulerLimits limits_;
  BlockAllocator& blocks_;
  const StepTimePredictor* predictor_;
  std::map<SeqId, std::unique_ptr<Sequence>> sequences_;
  SequenceQueue queue_;
  Sequence* promoted_ = nullptr;  // the one batch sequence that is promoted, if any
  // Rows that batch work is behind its share, in percent of a row; ≥ 0.
  int64_t owed_to_batch_ = 0;
  int64_t preemptions_ = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_SCHEDULER_H_
