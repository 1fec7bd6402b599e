#include "engine/runtime/step_time.h"

#include <algorithm>

#include "engine/attention/observer.h"
#include "engine/attention/policy.h"
#include "engine/runtime/active_request.h"
#include "engine/runtime/batch_builder.h"

namespace kascade {
namespace {

const LayerObserver* observer_of(const Sequence& sequence) {
  const auto* observed = std::get_if<Observe>(&ActiveRequest::of(sequence).task);
  return observed == nullptr ? nullptr : observed->observer.get();
}

}  // namespace

StepFeatures StepTime::features(const Sequence& sequence, int32_t begin, int32_t end) const {
  const SequenceSpec& spec = sequence.spec;
  const int32_t first_logit = spec.generates ? static_cast<int32_t>(sequence.tokens.size()) - 1
                                             : std::max(spec.first_logit, sequence.delivered);
  const LayerObserver* observer = observer_of(sequence);
  StepFeatures sum;
  for (const auto& policy : spec.policies) {
    sum.rows += end - begin;
    sum.logit_rows += std::max(0, end - std::max(begin, first_logit));
    for_each_tile(*policy, spec.prefill_end, begin, end, [&](const TileSpan& tile) {
      const bool alone = tile.first == tile.last;
      for (int32_t layer = 0; layer < layers_; ++layer) {
        const KeysRead keys = policy->keys_read(layer, tile);
        (alone ? sum.row_keys_attended : sum.tile_keys_attended) +=
            static_cast<double>(keys.attended);
        (alone ? sum.row_keys_scored : sum.tile_keys_scored) += static_cast<double>(keys.scored);
      }
      if (observer != nullptr && observer->measures(tile.first)) {
        sum.observed_keys += 1.0 * layers_ * (tile.last + 1);
      }
    });
  }
  if (observer != nullptr) sum.observed_rows = sum.rows;
  return sum;
}

std::optional<double> StepTime::seconds(const StepFeatures& step) const {
  return cost_.predict(step);
}

StepFeatures StepTime::features(const StepPlan& plan, const Scheduler& scheduler) const {
  StepFeatures sum;
  for (const Slice& slice : plan.slices) {
    if (slice.branch != 0) continue;  // the features of branch 0 include all branches
    sum += features(*scheduler.find(slice.seq), slice.begin, slice.begin + slice.count);
  }
  return sum;
}

void StepTime::observe(const StepFeatures& step, absl::Duration duration) {
  cost_.observe(step, absl::ToDoubleSeconds(duration));
}

}  // namespace kascade
