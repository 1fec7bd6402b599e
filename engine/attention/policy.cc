#include "engine/attention/policy.h"

#include <algorithm>
#include <limits>

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

int32_t per_query_rows(const AttentionPolicy& policy, int32_t kv_heads, int32_t tokens,
                       int64_t bytes) {
  if (policy.selections_at_once() == 0) return 0;
  const int64_t keys = std::max(1, policy.candidates(tokens, /*per_query=*/true).budget);
  const int64_t row_bytes =
      keys * kv_heads * policy.selections_at_once() * int64_t{sizeof(int32_t)};
  return static_cast<int32_t>(
      std::clamp<int64_t>(bytes / row_bytes, 1, std::numeric_limits<int32_t>::max()));
}

std::shared_ptr<const AttentionPolicy> make_policy(const AttentionChoice& choice, int32_t layers) {
  if (const auto* scheduled = std::get_if<ScheduledAttention>(&choice)) {
    return make_kascade_policy(*scheduled);
  }
  if (const auto* baseline = std::get_if<BaselineAttention>(&choice)) {
    return make_baseline_policy(*baseline, layers);
  }
  return make_dense_policy();
}

}  // namespace kascade
