// Runs single steps of a synthetic model as the engine's loop does (batch, forward, head, greedy
// sampling) at any depth, and says where their time went.
#ifndef KASCADE_TESTS_BENCH_STEPS_H_
#define KASCADE_TESTS_BENCH_STEPS_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/attention/policy.h"
#include "engine/backend/batch.h"
#include "tests/bench/synthetic_model.h"
#include "tests/bench/timed_backend.h"
#include "tests/bench/work.h"

namespace kascade::bench {

// The batch of runs[i] of sequence i, all by `policy`; the last row of each gets logits.
Batch build_rows(SyntheticContexts& contexts, const AttentionPolicy& policy,
                 const std::vector<RowRun>& runs);

class StepRunner {
 public:
  // All outlive the runner.
  StepRunner(SyntheticModel& model, TimedBackend& backend, SyntheticContexts& contexts)
      : model_(model), backend_(backend), contexts_(contexts) {}

  // One step of runs[i] of sequence i, all by `policy`; the last row of each gets a token.
  StepTime run(const AttentionPolicy& policy, const std::vector<RowRun>& runs);

  // Of one selecting layer in such a step: how long choosing keys takes once they are scored. The
  // last step must have been by the same policy.
  double selection_seconds(const AttentionPolicy& policy, const std::vector<RowRun>& runs);

 private:
  double sample_all(std::span<const float> logits, size_t rows);
  // How the policy's selecting layers choose; of the last step.
  SelectOptions select_options(const AttentionPolicy& policy) const;

  SyntheticModel& model_;
  TimedBackend& backend_;
  SyntheticContexts& contexts_;
  PolicyState state_{};
  std::vector<float> logits_{};  // of the last step, downloaded
};

// How many layers of the policy select keys.
int32_t selecting_layers(const AttentionPolicy& policy, int32_t layers);

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_STEPS_H_
