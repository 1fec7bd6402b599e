// Kascade sparse attention (method, A1–A4): some layers select keys, the others reuse a selection
// through their head map, always with their own keys and values.
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "engine/attention/policy.h"
#include "engine/base/check.h"

namespace kascade {
namespace {

class KascadePolicy final : public AttentionPolicy {
 public:
  KascadePolicy(std::shared_ptr<const Schedule> schedule, std::optional<double> ratio)
      : schedule_(std::move(schedule)), rule_(schedule_->selection) {
    if (ratio.has_value()) {
      KASCADE_CHECK(rule_.family == Family::kKascade);
      rule_.ratio = *ratio;
    }
    for (int32_t layer = 0; layer < static_cast<int32_t>(schedule_->layers.size()); ++layer) {
      selection_used_.push_back(schedule_->selection_used(layer));
    }
  }

  const SelectionSettings& rule() const override { return rule_; }
  bool chooses_keys() const override { return true; }
  int32_t selections() const override {
    return static_cast<int32_t>(schedule_->layers.size()) - schedule_->count(Role::kReuse);
  }
  Role role(int32_t layer) const override { return schedule_->layers[layer].role; }

  void attend(Backend& backend, int32_t layer, const AttentionInput& in,
              PolicyState& scratch) const override {
    scratch.selections.resize(schedule_->layers.size());
    const LayerSchedule& plan = schedule_->layers[layer];
    if (plan.role == Role::kReuse) {
      const KeySet keys{&scratch.selections[plan.anchor], plan.head_map};
      return backend.attend(in.q, in.cache, in.batch, in.tiles, keys, in.out);
    }
    Selection& own = scratch.selections[layer];
    if (selects(layer)) {
      backend.select_keys(in.q, in.cache, in.batch, in.tiles, to_select_options(rule_), own);
    }
    const KeySet keys{attends_sparsely(layer) ? &own : nullptr, {}};
    backend.attend(in.q, in.cache, in.batch, in.tiles, keys, in.out);
  }

  KeyCounts count(int32_t layer, const TileSpan& tile) const override {
    KeyCounts sum;
    for (int32_t position = tile.first; position <= tile.last; ++position) {
      const bool decides =
          tile.per_query || rule_.family == Family::kKascade || position == tile.last;
      sum += count_row(layer, position, tile.per_query, decides);
    }
    return sum;
  }

 private:
  // An anchor of the kascade family is itself sparse; in the tile family its output is dense.
  bool attends_sparsely(int32_t layer) const {
    return role(layer) == Role::kAnchor && rule_.family == Family::kKascade;
  }
  // A selection that nobody attends to is not made.
  bool selects(int32_t layer) const { return selection_used_[layer] || attends_sparsely(layer); }

  KeyCounts count_row(int32_t layer, int32_t position, bool per_query, bool decides) const {
    const Candidates candidates = candidates_of(rule_, position, per_query);
    const int64_t causal = int64_t{position} + 1;
    const int64_t sparse = candidates.begin + candidates.budget + (causal - candidates.end);
    const bool dense = role(layer) != Role::kReuse && !attends_sparsely(layer);
    const int64_t attended = dense ? causal : sparse;
    const bool scores = role(layer) != Role::kReuse && selects(layer) && decides;
    const int64_t scored = scores && !candidates.takes_all() ? causal : 0;
    // Scoring reads every key once; attending then adds the values of the attended keys.
    return {.causal = causal,
            .attended = attended,
            .scored = scored,
            .kv_rows_read = std::max(attended, scored) + attended};
  }

  std::shared_ptr<const Schedule> schedule_;
  SelectionSettings rule_;
  std::vector<bool> selection_used_;  // [layers]
};

}  // namespace

std::shared_ptr<const AttentionPolicy> make_kascade_policy(std::shared_ptr<const Schedule> schedule,
                                                           std::optional<double> ratio) {
  return std::make_shared<KascadePolicy>(std::move(schedule), ratio);
}

}  // namespace kascade
