#include "engine/attention/policy.h"

#include "engine/attention/baseline.h"
#include "engine/attention/kascade.h"
#include "engine/base/check.h"

namespace kascade {

Selection& PolicyState::selection(Backend& backend, int32_t index) {
  const auto at = static_cast<size_t>(index);
  if (selections_.size() <= at) selections_.resize(at + 1);
  if (selections_[at] == nullptr) selections_[at] = backend.make_selection();
  return *selections_[at];
}

const Selection* PolicyState::find(int32_t index) const {
  const auto at = static_cast<size_t>(index);
  return at < selections_.size() ? selections_[at].get() : nullptr;
}

KeysRead AttentionPolicy::keys_read_by_heads(int32_t layer, const TileSpan& tile, int32_t kv_heads,
                                             const PolicyState& /*state*/,
                                             int32_t /*index*/) const {
  const KeysRead one = keys_read(layer, tile);
  return {.causal = one.causal * kv_heads,
          .attended = one.attended * kv_heads,
          .scored = one.scored * kv_heads,
          .kv_rows = one.kv_rows * kv_heads,
          .int4_keys = one.int4_keys * kv_heads};
}

std::shared_ptr<const AttentionPolicy> make_policy(const AttentionChoice& choice, int32_t layers) {
  if (const auto* scheduled = std::get_if<ScheduledAttention>(&choice)) {
    return make_kascade_policy(scheduled->schedule, scheduled->ratio);
  }
  if (const auto* baseline = std::get_if<BaselineAttention>(&choice)) {
    return make_baseline_policy(*baseline, layers);
  }
  return make_dense_policy();
}

}  // namespace kascade
