// Decides what each step computes: plan() picks rows and blocks within one token budget, commit()
// books what the step did. Pure and single-threaded: no clock, no device, no tokenizer, so that tests
// script it line by line.
#ifndef KASCADE_ENGINE_SCHEDULER_SCHEDULER_H_
#define KASCADE_ENGINE_SCHEDULER_SCHEDULER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/cache/blocks.h"
#include "engine/scheduler/sequence.h"
#include "engine/types.h"

namespace kascade {

// Rows tokens[begin, begin + count) of one branch of a sequence.
struct Slice {
  SeqId seq = 0;
  int32_t branch = 0;
  int32_t begin = 0;
  int32_t count = 0;
  int32_t first_logit = 0;  // absolute position; logits are wanted of rows ≥ it. ≥ begin + count: none
};

struct StepPlan {
  std::vector<Slice> slices{};    // all branches of a sequence are neighbours
  std::vector<SeqId> expired{};   // past their deadline; already released
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
  int32_t max_queue = 256;         // waiting; more → RESOURCE_EXHAUSTED
  int32_t context = 4096;          // of the model, tokens
};

class Scheduler {
 public:
  Scheduler(const SchedulerLimits& limits, BlockAllocator& blocks);

  // RESOURCE_EXHAUSTED: queue full (says how many wait). FAILED_PRECONDITION: can never fit the
  // cache (says tokens and capacity).
  absl::Status admit(SeqId id, SequenceSpec spec, absl::Time now);
  void cancel(SeqId id);  // releases at once; unknown ids are ignored

  // Decode rows first, then prefill chunks in order of (priority, admission). Without a free block
  // the youngest running sequence of the lowest priority is preempted: blocks freed, recomputed later.
  StepPlan plan(absl::Time now);

  // Books a step; returns the ids that ended by it (finished, text fed, max_tokens reached), already
  // released. outcomes: for sequences that generated or ended.
  std::vector<SeqId> commit(const StepPlan& plan, std::span<const Outcome> outcomes);

  const Sequence* find(SeqId id) const;
  int32_t running() const;  // sequences with blocks
  int32_t waiting() const;
  int64_t waiting_tokens() const;
  int64_t preemptions() const { return preemptions_; }

 private:
  struct Budget;
  bool plan_sequence(Sequence& sequence, Budget& budget, StepPlan& plan);
  bool reserve(Sequence& sequence, int32_t tokens, const StepPlan& plan);
  void preempt(Sequence& sequence);
  int32_t chunk_end(const Sequence& sequence, int32_t most_rows) const;

  SchedulerLimits limits_;
  BlockAllocator& blocks_;
  std::map<SeqId, std::unique_ptr<Sequence>> sequences_;
  uint64_t next_order_ = 0;
  int64_t preemptions_ = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_SCHEDULER_H_
