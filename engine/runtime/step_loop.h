// The work of the engine in each step: plan → batch → forward → sample or score → events. It is
// single-threaded and has no clock of its own. The engine runs it on its thread; tests call it
// directly.
#ifndef KASCADE_ENGINE_RUNTIME_STEP_LOOP_H_
#define KASCADE_ENGINE_RUNTIME_STEP_LOOP_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/attention/policy.h"
#include "engine/cache/blocks.h"
#include "engine/cache/kv_cache.h"
#include "engine/engine.h"
#include "engine/model/transformer.h"
#include "engine/request.h"
#include "engine/runtime/active_request.h"
#include "engine/runtime/step_builder.h"
#include "engine/runtime/step_outputs.h"
#include "engine/runtime/step_time.h"
#include "engine/scheduler/place_outlook.h"
#include "engine/scheduler/scheduler.h"

namespace kascade {

// Requests that no longer wait for their first step.
struct QueueChanges {
  double step_seconds = 0;            // duration of the step in between; 0 = there was none
  double idle_seconds = 0;            // before that step, since the one before
  int32_t interactive_rows = 0;       // in that step
  std::vector<QueueEntry> started{};  // in this step
  std::vector<QueueEntry> gone{};     // ended before
  // How fast prompts are computed according to the step-time forecast, if that is known.
  std::optional<double> rows_per_second{};
  PlaceOutlook outlook{};  // for those that wait
};

class StepLoop {
 public:
  // Called with the new statistics, and with what happened to the queue since the last call, before
  // the events of a step are sent.
  using Publish = std::function<void(const EngineStats&, const QueueChanges&)>;

  // All references must outlive the loop.
  StepLoop(const SchedulerLimits& limits, int64_t max_selection_bytes, Transformer& transformer,
           KvCache& cache, BlockAllocator& blocks, Publish publish);

  // Returns the scheduler's error if it refuses the request; the sink is then not called.
  absl::Status admit(QueuedRequest queued, absl::Time now);
  // Ends a sequence and sends its last event with `reason`; does nothing if the id is unknown.
  void end(SeqId id, FinishReason reason, absl::Status status);
  void end_all(FinishReason reason, const absl::Status& status);

  // Runs one step; returns false if there was nothing to do. `clock` is read before and after the
  // computation.
  bool step(const std::function<absl::Time()>& clock);
  bool idle() const { return scheduler_.empty(); }

 private:
  // Sequences with equal choices share a policy, and so an attention group of the step.
  std::shared_ptr<const AttentionPolicy> policy_of(const AttentionChoice& choice);
  std::vector<std::shared_ptr<const AttentionPolicy>> policies_of(const Request& request);
  SequenceSpec spec_of(const QueuedRequest& queued);
  void end(std::unique_ptr<Sequence> sequence, FinishReason reason, absl::Status status);

  void record_start(const StepLayout& layout, absl::Time begin);
  void record_end(const StepLayout& layout, absl::Time end);
  // Compares the duration of a step with its prediction, and learns from it.
  void record_step_time(const StepFeatures& features, absl::Duration duration);
  void count_keys(const StepLayout& layout);
  // The part of count_keys() for one tile of a batch; `counts` is of the run that it belongs to, or
  // null if the tile was counted before.
  void count_tile(const AttentionGroup& group, int32_t index, const TileSpan& tile,
                  AttentionCounts* counts);

  void deliver(const std::vector<std::unique_ptr<Sequence>>& ended, StepEvents& events);
  static void send(ActiveRequest& request, Event& event);
  void refresh_stats();
  void record_length(const Sequence& ended);

  Transformer& transformer_;
  KvCache& cache_;
  BlockAllocator& blocks_;
  StepTime step_time_;
  Scheduler scheduler_;
  StepBuilder builder_;
  EngineStats stats_;
  StepOutputs outputs_;
  SchedulerLimits limits_;
  int64_t max_selection_bytes_;
  std::map<AttentionChoice, std::weak_ptr<const AttentionPolicy>> policies_;
  QueueChanges changes_;                               // since the last publication
  absl::Time last_step_end_ = absl::InfiniteFuture();  // infinite before the first step
  double length_share_ = 1;  // of the permitted tokens, that sequences generated lately
  Publish publish_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_STEP_LOOP_H_
