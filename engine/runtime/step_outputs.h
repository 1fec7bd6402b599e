// What follows from the hidden states of a step: sampled tokens, and scores of texts.
#ifndef KASCADE_ENGINE_RUNTIME_STEP_OUTPUTS_H_
#define KASCADE_ENGINE_RUNTIME_STEP_OUTPUTS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/engine.h"
#include "engine/model/transformer.h"
#include "engine/request.h"
#include "engine/runtime/active_request.h"
#include "engine/runtime/step_builder.h"
#include "engine/sampling/scorer.h"
#include "engine/scheduler/scheduler.h"

namespace kascade {

using StepEvents = std::map<SeqId, Event>;

class StepOutputs {
 public:
  // All references must outlive the object. It counts generated and scored tokens in `stats`.
  StepOutputs(int32_t max_sequences, Transformer& transformer, const Scheduler& scheduler,
              EngineStats& stats);

  // Fills in the event of each sequence of the step and returns what the scheduler must know.
  // `hidden` [batch rows, hidden] is the output of the transformer.
  std::vector<Outcome> decide(const StepLayout& layout, Tensor hidden, StepEvents& events);

 private:
  void generate(const StepLayout& layout, Tensor hidden, std::vector<Outcome>& outcomes,
                StepEvents& events);
  std::optional<Outcome> sample_row(SeqId id, std::span<const float> logits, Event& event);
  void score(const StepLayout& layout, size_t index, Tensor hidden, std::vector<Outcome>& outcomes,
             Event& event);
  absl::Status compare(const StepLayout& layout, size_t index, Tensor hidden, Event& event);

  Transformer& transformer_;
  const Scheduler& scheduler_;
  EngineStats& stats_;
  Scorer scorer_;
  Buffer generate_hidden_;     // [max_sequences, hidden]
  Buffer generate_logits_;     // [max_sequences, vocab]
  std::vector<float> logits_;  // generate_logits_, downloaded
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_STEP_OUTPUTS_H_
