#include "engine/attention/baseline.h"

#include <algorithm>

#include "engine/base/check.h"

namespace kascade {

BaselinePolicy::BaselinePolicy(const BaselineAttention& settings, int32_t query_tile,
                               int32_t layers)
    : settings_{.query_tile = query_tile,
                .ratio = settings.ratio,
                .min_keys = settings.min_keys,
                .sink_keys = settings.sink_keys},
      dense_(static_cast<size_t>(layers), false) {
  for (const int32_t layer : settings.dense_layers) dense_[layer] = true;
}

void BaselinePolicy::attend(Backend& backend, int32_t layer, const AttentionInput& in,
                            PolicyState& state) const {
  if (dense_[layer]) return backend.attend(in.q, in.cache, in.step, in.tiles, {}, in.out);
  // No layer uses another layer's selection, so one Selection serves all layers.
  Selection& selection = state.selection(backend, 0);
  state.timed([&] { choose(backend, in, selection); });
  backend.attend(in.q, in.cache, in.step, in.tiles, {&selection, {}}, in.out);
}

AttendedKeys BaselinePolicy::attended_keys(int32_t layer, const PolicyState& state) const {
  AttendedKeys out{.source = layer};
  if (dense_[layer]) return out;
  out.keys.selection = state.find(0);
  if (!scores_something()) return out;
  out.selected = out.keys.selection;
  out.options = select_options();
  out.ranked_by_scores = scores() == Scores::kKeys;
  return out;
}

KeysRead BaselinePolicy::keys_read(int32_t layer, const TileSpan& tile) const {
  if (dense_[layer]) return all_keys_read(tile);
  KeysRead sum;
  for (int32_t position = tile.first; position <= tile.last; ++position) {
    const Candidates from = candidates(position, tile.per_query);
    const int64_t causal = int64_t{position} + 1;
    const int64_t attended = from.begin + from.budget + (causal - from.end);
    const int64_t read = from.takes_all() ? 0 : rows_to_choose(from, position);
    sum += {.causal = causal,
            .attended = attended,
            .scored = read,
            .kv_rows = (scores() == Scores::kKeys ? std::max(read, attended) : read + attended) +
                       attended};
  }
  return sum;
}

std::shared_ptr<const AttentionPolicy> make_baseline_policy(const BaselineAttention& settings,
                                                            int32_t layers) {
  switch (settings.kind) {
    case BaselineKind::kOracle:
      return make_oracle_policy(settings, layers);
    case BaselineKind::kStreaming:
      return make_streaming_policy(settings, layers);
    case BaselineKind::kQuest:
      return make_quest_policy(settings, layers);
    case BaselineKind::kWindow:
    case BaselineKind::kChunk:
      return make_nearby_policy(settings, layers);
  }
  KASCADE_CHECK(false);
  return nullptr;
}

}  // namespace kascade
