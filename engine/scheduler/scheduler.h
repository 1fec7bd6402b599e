// Decides what each step computes: plan() picks rows and blocks within one token budget, commit()
// books what the step did. Pure and single-threaded: no clock, no device, no tokenizer, so that
// tests script it line by line.
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

// Rows tokens[begin, begin + count) of one branch of a sequence.
struct Slice {
  SeqId seq = 0;
  int32_t branch = 0;
  int32_t begin = 0;
  int32_t count = 0;
  // Logits are wanted of rows from this absolute position on; ≥ begin + count: of none. A row whose
  // logits were delivered before its sequence was preempted is not asked for again.
  int32_t first_logit = 0;
};

struct StepPlan {
  // Decode rows first, then chunks. The branches of a sequence are neighbours with the same rows.
  std::vector<Slice> slices{};
  // Past their deadline: no longer the scheduler's, their blocks are free.
  std::vector<std::unique_ptr<Sequence>> expired{};
  bool empty() const { return slices.empty(); }
};

// What a step did to one sequence: generated one token, and/or is finished.
struct Outcome {
  SeqId seq = 0;
  std::optional<Token> generated{};
  bool finished = false;  // stop token, error …; the scheduler adds "text done" and "length" itself
};

struct SchedulerLimits {
  int32_t max_batch_tokens = 512;  // rows of one step, all branches; ≥ max_sequences + 2 · 128
  int32_t max_sequences = 32;      // running at once (branches counted)
  int32_t context = 4096;          // of the model, tokens
  // While a sequence decodes, chunks are cut so that the step is not expected to take longer; one
  // query tile is always fed. 0 = no limit.
  double max_step_seconds = 0;
};

// Predicts how long a step takes; asked only where max_step_seconds is set.
class StepTimePredictor {
 public:
  virtual ~StepTimePredictor() = default;
  // What rows [begin, end) of a sequence, of all its branches, add to a step.
  virtual StepFeatures features(const Sequence& sequence, int32_t begin, int32_t end) const = 0;
  // Unset: not known yet, and no reason to cut a chunk.
  virtual std::optional<double> seconds(const StepFeatures& step) const = 0;
};

class Scheduler {
 public:
  // CHECKs the limits. `blocks` and `predictor`, which may be null where max_step_seconds is 0,
  // must outlive the scheduler.
  Scheduler(const SchedulerLimits& limits, BlockAllocator& blocks,
            const StepTimePredictor* predictor = nullptr);

  // FAILED_PRECONDITION: can never fit the cache (says tokens and capacity) or has more branches
  // than max_sequences. How many sequences may wait is for the caller to limit.
  absl::Status admit(SeqId id, SequenceSpec spec,
                     std::unique_ptr<SequenceAttachment> attachment = nullptr);
  // Takes the sequence out and frees its blocks, at any time, also between plan and commit. Null
  // for unknown ids.
  std::unique_ptr<Sequence> cancel(SeqId id);
  // All ids, in order of priority and admission.
  std::vector<SeqId> ids() const;

  // Releases what is past its deadline, then deals out rows and blocks in the order (priority,
  // admission), with one row kept back for each interactive sequence that decodes. Interactive work
  // that fills every step starves background work; it never works the other way round.
  StepPlan plan(absl::Time now);

  // Records a step; returns the sequences that ended by it (finished, text fed, max_tokens
  // reached), whose blocks are free. outcomes: one for each generator whose last token was fed (a
  // token, or finished), and for sequences that ended otherwise. Sequences cancelled since plan()
  // are skipped.
  std::vector<std::unique_ptr<Sequence>> commit(const StepPlan& plan,
                                                std::span<const Outcome> outcomes);

  const Sequence* find(SeqId id) const;  // null if unknown
  bool empty() const { return sequences_.empty(); }
  int32_t running() const;  // sequences with blocks
  int32_t waiting() const;
  int32_t waiting(Priority priority) const;
  int64_t waiting_tokens() const;  // that waiting sequences have yet to feed
  int64_t preemptions() const { return preemptions_; }

 private:
  struct Budget;
  struct LowerPriorityUsage;

  Sequence* find_mutable(SeqId id);
  std::unique_ptr<Sequence> release(SeqId id);
  LowerPriorityUsage lower_priority_usage(const Sequence& sequence) const;
  void plan_sequence(Sequence& sequence, Budget& budget, StepPlan& plan);
  int32_t chunk_end(const Sequence& sequence, int32_t rows, const Budget& budget) const;
  int32_t chunk_end_within_deadline(const Sequence& sequence, int32_t end, const Budget& budget,
                                    StepFeatures& chunk) const;
  bool reserve(Sequence& sequence, int32_t tokens);
  void preempt_last(const Sequence& requester);
  int32_t running_branches() const;

  SchedulerLimits limits_;
  BlockAllocator& blocks_;
  const StepTimePredictor* predictor_;
  std::map<SeqId, std::unique_ptr<Sequence>> sequences_;
  // All sequences in order of (priority, admission). Within one priority the running ones come
  // before the waiting ones: the first to start is the first that waits, the first to be preempted
  // is the last that runs.
  std::vector<Sequence*> queue_;
  uint64_t next_order_ = 0;
  int64_t preemptions_ = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_SCHEDULER_H_
