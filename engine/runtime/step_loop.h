// What the engine does each step: plan → batch → forward → sample or score → events.
// Single-threaded and clock-free; Engine runs it on its thread, tests and the probe call it
// directly.
#ifndef KASCADE_ENGINE_RUNTIME_STEP_LOOP_H_
#define KASCADE_ENGINE_RUNTIME_STEP_LOOP_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/attention/policy.h"
#include "engine/cache/blocks.h"
#include "engine/cache/kv_cache.h"
#include "engine/engine.h"
#include "engine/model/transformer.h"
#include "engine/request.h"
#include "engine/runtime/batch_builder.h"
#include "engine/sampling/scorer.h"
#include "engine/scheduler/scheduler.h"
#include "engine/scheduler/step_cost.h"

namespace kascade {

// A validated request with its mode resolved.
struct QueuedRequest {
  SeqId id = 0;
  Request request{};
  Mode mode = Mode::kDense;
  std::shared_ptr<const Schedule> schedule{};  // sparse and compare, unless by a baseline
  // Calibration: run the tokens under this policy, give no logits.
  std::shared_ptr<const AttentionPolicy> measure{};
  Priority priority = Priority::kInteractive;
  bool is_continuation = false;  // part of a request taken in before
  EventSink sink{};
};

class StepLoop {
 public:
  // Called with the new figures before the events of a step are sent.
  using StatsSink = std::function<void(const EngineStats&)>;

  // All references outlive the loop.
  StepLoop(const SchedulerLimits& limits, int64_t max_selection_bytes, Transformer& transformer,
           KvCache& cache, BlockAllocator& blocks, StatsSink publish);

  // The scheduler's refusals; the sink is not called then.
  absl::Status admit(QueuedRequest admission, absl::Time now);
  // Sends a last event with `reason` unless the sequence is unknown.
  void end(SeqId id, FinishReason reason, absl::Status status);
  void end_all(FinishReason reason, const absl::Status& status);

  // One step; false when nothing could be done. `clock` is read before and after the computation.
  bool step(const std::function<absl::Time()>& clock);
  bool idle() const { return active_.empty(); }

 private:
  struct ActiveRequest {
    QueuedRequest admission;
    std::vector<std::shared_ptr<const AttentionPolicy>> policies{};  // [branches]
    std::vector<Token> generated{};
    AttentionCounts counts{};
    int32_t counted_until = 0;  // recomputed rows are not counted twice
    absl::Time admitted{};
    absl::Time started = absl::InfiniteFuture();
    absl::Time prefilled = absl::InfiniteFuture();
    std::optional<Finish> finish{};
  };
  // The slices of a step in batch order, with the groups that share a policy.
  struct StepLayout {
    std::vector<PlannedSlice> slices{};
    BuiltBatch built{};
    Step step{};
  };

  std::shared_ptr<const AttentionPolicy> sparse_policy(const QueuedRequest& admission);
  SequenceSpec spec_of(const ActiveRequest& live) const;
  StepLayout build_step(const StepPlan& plan);
  // What rows [begin, end) of all branches add to a step.
  StepFeatures features_of(const Sequence& sequence, int32_t begin, int32_t end) const;
  StepFeatures features_of(const StepPlan& plan) const;
  // Learns from a step and compares it with what was expected.
  void record_step_time(const StepPlan& plan, const StepFeatures& features,
                        absl::Duration duration);
  void count_keys(const StepLayout& layout);
  std::vector<Outcome> decide(const StepLayout& layout, Tensor hidden,
                              std::map<SeqId, Event>& events);
  void generate(const StepLayout& layout, Tensor hidden, std::vector<Outcome>& outcomes,
                std::map<SeqId, Event>& events);
  std::optional<Outcome> sample_row(SeqId id, Tensor logits, Event& event);
  void score(const StepLayout& layout, size_t index, Tensor hidden, std::vector<Outcome>& outcomes,
             Event& event);
  void deliver(std::span<const SeqId> ended, std::map<SeqId, Event>& events);
  void send(ActiveRequest& live, Event& event);
  void refresh_stats();

  Transformer& transformer_;
  KvCache& cache_;
  BlockAllocator& blocks_;
  StepCost cost_;  // which the scheduler asks
  Scheduler scheduler_;
  Scorer scorer_;
  int64_t max_selection_bytes_;
  std::shared_ptr<const AttentionPolicy> dense_;
  // Sequences of one schedule and ratio, or of one baseline, share a policy, and so an attention
  // group.
  std::map<std::tuple<const Schedule*, double, std::optional<BaselineAttention>>,
           std::weak_ptr<const AttentionPolicy>>
      policies_;
  std::vector<std::unique_ptr<PolicyState>> scratch_;  // [groups of a step]
  Buffer generate_hidden_;                             // [max_sequences, hidden]
  Buffer generate_logits_;                             // [max_sequences, vocab]
  std::map<SeqId, ActiveRequest> active_;
  EngineStats stats_;
  StatsSink publish_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_STEP_LOOP_H_
