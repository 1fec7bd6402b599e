// StreamingLLM: attends to the first and the most recent keys; nothing is scored. The number of
// keys, including the first ones (sinks), is that of the other baselines at the same ratio. Unlike
// in the published method, keys keep the rotary positions that they have in the text.
#include <algorithm>
#include <memory>

#include "engine/attention/baseline.h"

namespace kascade {
namespace {

class StreamingPolicy final : public PositionPolicy {
 public:
  StreamingPolicy(const BaselineAttention& settings, int32_t layers)
      : PositionPolicy(settings, kBaselineTile, layers) {}

  // Nothing is selected. The window of most recent keys begins so far before the query's tile that
  // the window and the sinks together use the whole budget.
  Candidates candidates(int32_t position, bool /*per_query*/) const override {
    SelectionSettings without_sinks = settings();
    without_sinks.sink_keys = 0;
    const Candidates keys = candidates_of(without_sinks, position, /*per_query=*/false);
    if (keys.takes_all()) return {};
    const int32_t sinks = std::min(settings().sink_keys, keys.budget);
    const int32_t window = keys.end - (keys.budget - sinks);
    return {.begin = sinks, .end = window, .budget = 0};
  }
};

}  // namespace

std::shared_ptr<const AttentionPolicy> make_streaming_policy(const BaselineAttention& settings,
                                                             int32_t layers) {
  return std::make_shared<StreamingPolicy>(settings, layers);
}

}  // namespace kascade
