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
};

// Predicts the duration of a step; used only if max_step_seconds is set.
class StepTimePredictor {
 public:
  virtual ~StepTimePredictor() = default;
  // What rows [begin, end) of all branches of a sequence add to a step.
  virtual StepFeatures features(const Sequence& sequence, int32_t begin, int32_t end) const = 0;
  // The predicted duration; unset while it is not known, in which case no chunk is shortened.
  virtual std::optional<double> seconds(const StepFeatures& step) const = 0;
};

class Scheduler {
 public:
  // CHECKs the limits. `blocks` and `predictor` must outlive the scheduler; `predictor` may be null
  // if max_step_seconds is 0.
  Scheduler(const SchedulerLimits& limits, BlockAllocator& blocks,
            const StepTimePredictor* predictor = nullptr);

  // FAILED_PRECONDITION: the sequence can never fit the cache (the message says tokens and
  // capacity), or it has more branches than max_sequences. The caller limits how many sequences may
  // wait.
  absl::Status admit(SeqId id, SequenceSpec spec,
                     std::unique_ptr<SequenceAttachment> attachment = nullptr);
  // Removes the sequence and frees its blocks; allowed at any time, also between plan() and
  // commit(). Null if the id is unknown.
  std::unique_ptr<Sequence> cancel(SeqId id);
  // All ids, in order of priority and admission.
  std::vector<SeqId> ids() const;

  // Releases sequences past their deadline, then gives out rows and blocks in order of (priority,
  // admission), reserving one row per branch for each interactive sequence that decodes.
  // Interactive work that fills every step starves background work, never the other way round.
  StepPlan plan(absl::Time now);

  // Records a step and returns the sequences that ended with it (finished, text completely fed, or
  // max_tokens reached); their blocks are free. `outcomes` has one entry for each generating
  // sequence whose last token was fed (a token, or finished) and for each sequence that ended for
  // another reason. Sequences cancelled since plan() are skipped.
  std::vector<std::unique_ptr<Sequence>> commit(const StepPlan& plan,
                                                std::span<const Outcome> outcomes);

  const Sequence* find(SeqId id) const;  // null if unknown
  bool empty() const { return sequences_.empty(); }
  int32_t running() const;  // sequences with blocks
  int32_t waiting() const;
  int32_t waiting(Priority priority) const;
  int64_t waiting_tokens() const;  // tokens that waiting sequences have yet to feed
  int64_t preemptions() const { return preemptions_; }

 private:
  struct Budget;
  struct LowerPriorityUsage;

  Sequence* find_mutable(SeqId id);
  std::unique_ptr<Sequence> release(SeqId id);
  LowerPriorityUsage lower_priority_usage(const Sequence& sequence) const;
  void plan_sequence(Sequence& sequence, Budget& budget, StepPlan& plan);
  int32_t chunk_end(const Sequence& sequence, int32_t rows, const Budget& budget) const;
  int32_t chunk_end_within_step_time(const Sequence& sequence, int32_t end, const Budget& budget,
                                     StepFeatures& chunk) const;
  bool reserve(Sequence& sequence, int32_t tokens);
  void preempt_last(const Sequence& requester);
  int32_t running_branches() const;

  SchedulerLimits limits_;
  BlockAllocator& blocks_;
  const StepTimePredictor* predictor_;
  std::map<SeqId, std::unique_ptr<Sequence>> sequences_;
  // All sequences in order of (priority, admission). Within one priority, running sequences come
  // before waiting ones: the next to start is the first that waits, and the next to be preempted is
  // the last that runs.
  std::vector<Sequence*> queue_;
  uint64_t next_order_ = 0;
  int64_t preemptions_ = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_SCHEDULER_H_
