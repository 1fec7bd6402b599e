#include "engine/attention/kascade.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "engine/base/check.h"

namespace kascade {
namespace {

class KascadePolicy final : public AttentionPolicy {
 public:
  explicit KascadePolicy(const ScheduledAttention& attention)
      : schedule_(attention.schedule), settings_(schedule_->selection) {
    if (attention.ratio.has_value()) {
      KASCADE_CHECK(settings_.family == Family::kKascade);
      settings_.ratio = *attention.ratio;
      settings_.mass = 0;
      settings_.max_ratio = 1;
    }
    settings_.dense_below = attention.dense_below.value_or(settings_.dense_below);
    for (int32_t layer = 0; layer < static_cast<int32_t>(schedule_->layers.size()); ++layer) {
      selection_used_.push_back(schedule_->selection_used(layer));
    }
  }

  Tiling tiling() const override {
    return {.query_tile = settings_.query_tile, .shares_selection = true};
  }
  Candidates candidates(int32_t position, bool per_query) const override {
    return candidates_of(settings_, position, per_query);
  }
  bool attends_to_all(int32_t position) const override {
    return position / settings_.query_tile * settings_.query_tile < settings_.dense_below;
  }
  int32_t selections_at_once() const override {
    return static_cast<int32_t>(schedule_->layers.size()) - schedule_->count(Role::kReuse);
  }
  LayerKind layer_kind(int32_t layer) const override {
    const Role role = this->role(layer);
    return role == Role::kDense    ? LayerKind::kDense
           : role == Role::kAnchor ? LayerKind::kSelecting
                                   : LayerKind::kReusing;
  }

  void attend(Backend& backend, int32_t layer, const AttentionInput& in,
              PolicyState& state) const override {
    if (selects(layer)) {
      Selection& selection = state.selection(backend, layer);
      state.timed([&] {
        backend.select_keys(in.q, in.cache, in.step, in.tiles, to_select_options(settings_),
                            selection);
      });
    }
    backend.attend(in.q, in.cache, in.step, in.tiles, attended_keys(layer, state).keys, in.out);
  }

  AttendedKeys attended_keys(int32_t layer, const PolicyState& state) const override {
    const LayerSchedule& scheduled = schedule_->layers[layer];
    AttendedKeys out{.source = layer};
    if (scheduled.role == Role::kReuse) {
      out.source = scheduled.anchor;
      out.keys = {state.find(scheduled.anchor), scheduled.head_map};
      KASCADE_CHECK(out.keys.selection != nullptr);
    } else if (selects(layer)) {
      out.selected = state.find(layer);
      out.options = to_select_options(settings_);
      out.ranked_by_scores = true;
      if (attends_sparsely(layer)) out.keys.selection = out.selected;
    }
    return out;
  }

  KeysRead keys_read(int32_t layer, const TileSpan& tile) const override {
    return keys_read(layer, tile, /*selected=*/std::nullopt);
  }

  KeysRead keys_read_by_heads(int32_t layer, const TileSpan& tile, int32_t kv_heads,
                              const PolicyState& state, int32_t index) const override {
    const KeySet keys = attended_keys(layer, state).keys;
    if (settings_.mass == 0 || keys.selection == nullptr) {
      return AttentionPolicy::keys_read_by_heads(layer, tile, kv_heads, state, index);
    }
    KeysRead sum;
    for (int32_t g = 0; g < kv_heads; ++g) {
      const int32_t source = keys.head_map.empty() ? g : keys.head_map[g];
      sum += keys_read(layer, tile, keys.selection->count(index, source));
    }
    return sum;
  }

 private:
  KeysRead keys_read(int32_t layer, const TileSpan& tile, std::optional<int32_t> selected) const {
    KeysRead sum;
    for (int32_t position = tile.first; position <= tile.last; ++position) {
      const bool decides =
          tile.per_query || settings_.family == Family::kKascade || position == tile.last;
      sum += keys_read_by_row(layer, position, tile.per_query, decides, selected);
    }
    return sum;
  }
  Role role(int32_t layer) const { return schedule_->layers[layer].role; }
  // In the kascade family an anchor attends to its own selection; in the tile family it attends
  // densely.
  bool attends_sparsely(int32_t layer) const {
    return role(layer) == Role::kAnchor && settings_.family == Family::kKascade;
  }
  // A selection that no layer attends to is not computed.
  bool selects(int32_t layer) const {
    return role(layer) != Role::kReuse && (selection_used_[layer] || attends_sparsely(layer));
  }

  // `decides`: whether the row's queries take part in the selection. `selected`: keys that the row
  // attends to besides sinks and own tile; the budget if unset.
  KeysRead keys_read_by_row(int32_t layer, int32_t position, bool per_query, bool decides,
                            std::optional<int32_t> selected) const {
    const Candidates candidates = candidates_of(settings_, position, per_query);
    const int64_t causal = int64_t{position} + 1;
    const int64_t sparse =
        candidates.begin + selected.value_or(candidates.budget) + (causal - candidates.end);
    const bool dense = role(layer) != Role::kReuse && !attends_sparsely(layer);
    const int64_t attended = dense ? causal : sparse;
    const bool scores = role(layer) != Role::kReuse && selects(layer) && decides;
    const int64_t scored = scores && !candidates.takes_all() ? causal : 0;
    // Scoring reads every key once, or its 4-bit copy. Once a key was read, attending reads only
    // its value.
    const int64_t scored_keys = settings_.int4_keys ? 0 : scored;
    return {.causal = causal,
            .attended = attended,
            .scored = scored,
            .kv_rows = std::max(attended, scored_keys) + attended,
            .int4_keys = scored - scored_keys};
  }

  std::shared_ptr<const Schedule> schedule_;
  SelectionSettings settings_;
  std::vector<bool> selection_used_;  // [layers]
};

}  // namespace

std::shared_ptr<const AttentionPolicy> make_kascade_policy(const ScheduledAttention& attention) {
  return std::make_shared<KascadePolicy>(attention);
}

}  // namespace kascade
