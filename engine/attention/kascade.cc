// Kascade sparse attention (method, A1–A4): some layers select keys, the others reuse a selection
// through their head map, always with their own keys and values.
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "engine/attention/policy.h"
#include "engine/check.h"

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

  const SelectionRule& rule() const override { return rule_; }
  Role role(int32_t layer) const override { return schedule_->layers[layer].role; }

  void attend(Backend& backend, int32_t layer, const AttentionInput& in,
              AttentionScratch& scratch) const override {
    scratch.selections.resize(schedule_->layers.size());
    const LayerPlan& plan = schedule_->layers[layer];
    if (plan.role == Role::kReuse) {
      const KeySet keys{&scratch.selections[plan.anchor], plan.head_map};
      return backend.attend(in.q, in.cache, in.batch, in.tiles, keys, in.out);
    }
    Selection& own = scratch.selections[layer];
    if (selects(layer)) {
      backend.select_keys(in.q, in.cache, in.batch, in.tiles, how(), own);
    }
    const KeySet keys{attends_sparsely(layer) ? &own : nullptr, {}};
    backend.attend(in.q, in.cache, in.batch, in.tiles, keys, in.out);
  }

  RowCounts count(int32_t layer, int32_t position) const override {
    const Candidates candidates = candidates_of(rule_, position, /*row=*/true);
    const int64_t causal = int64_t{position} + 1;
    const int64_t sparse = candidates.begin + candidates.budget + (causal - candidates.end);
    if (role(layer) == Role::kReuse) {
      return {.attended = sparse, .scored = 0, .kv_rows_read = 2 * sparse};
    }
    const int64_t attended = attends_sparsely(layer) ? sparse : causal;
    const int64_t scored = selects(layer) && !candidates.takes_all() ? causal : 0;
    // Scoring reads every key once; attending then adds the values of the attended keys.
    return {.attended = attended, .scored = scored,
            .kv_rows_read = std::max(attended, scored) + attended};
  }

 private:
  // An anchor of the kascade family is itself sparse; in the tile family its output is dense.
  bool attends_sparsely(int32_t layer) const {
    return role(layer) == Role::kAnchor && rule_.family == Family::kKascade;
  }
  // A selection that nobody attends to is not made.
  bool selects(int32_t layer) const { return selection_used_[layer] || attends_sparsely(layer); }

  SelectKeys how() const {
    if (rule_.family == Family::kKascade) return {Pooling::kSum, 1};
    return {Pooling::kLastRowMax, rule_.query_tile};
  }

  std::shared_ptr<const Schedule> schedule_;
  SelectionRule rule_;
  std::vector<bool> selection_used_;  // [layers]
};

}  // namespace

std::shared_ptr<const AttentionPolicy> make_kascade_policy(std::shared_ptr<const Schedule> schedule,
                                                           std::optional<double> ratio) {
  return std::make_shared<KascadePolicy>(std::move(schedule), ratio);
}

}  // namespace kascade
