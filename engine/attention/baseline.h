// The code that the baseline methods share: which layers stay dense, how many keys a row attends
// to, and how keys are counted. Each method selects its keys in a file of its own.
#ifndef KASCADE_ENGINE_ATTENTION_BASELINE_H_
#define KASCADE_ENGINE_ATTENTION_BASELINE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/attention/choice.h"
#include "engine/attention/policy.h"

namespace kascade {

class BaselinePolicy : public AttentionPolicy {
 public:
  BaselinePolicy(const BaselineAttention& settings, int32_t query_tile, int32_t layers);

  Tiling tiling() const final {
    return {.query_tile = settings_.query_tile, .shares_selection = scores_something()};
  }
  Candidates candidates(int32_t position, bool per_query) const override {
    return candidates_of(settings_, position, per_query);
  }
  int32_t selections_at_once() const final { return scores_something() ? 1 : 0; }
  LayerKind layer_kind(int32_t layer) const final {
    if (dense_[layer]) return LayerKind::kDense;
    return scores_something() ? LayerKind::kSelecting : LayerKind::kWindow;
  }
  void attend(Backend& backend, int32_t layer, const AttentionInput& in,
              PolicyState& state) const final;
  AttendedKeys attended_keys(int32_t layer, const PolicyState& state) const final;
  KeysRead keys_read(int32_t layer, const TileSpan& tile) const final;

 protected:
  // Selects the keys of the tiles in one layer.
  virtual void choose(Backend& backend, const AttentionInput& in, Selection& selection) const = 0;
  // The number of cache entries (keys or summaries) that are read to select for the query at
  // `position`, provided that not all candidates are taken.
  virtual int64_t rows_to_choose(const Candidates& candidates, int32_t position) const = 0;
  // The data that is read to select.
  enum class Scores {
    kNothing,
    kKeys,       // keys, which attending then need not read again
    kSummaries,  // summaries of pages of keys
  };
  virtual Scores scores() const = 0;
  // How choose() ranks keys; of Quest the unit alone.
  virtual SelectOptions select_options() const { return {}; }
  const SelectionSettings& settings() const { return settings_; }

 private:
  bool scores_something() const { return scores() != Scores::kNothing; }

  SelectionSettings settings_;
  std::vector<bool> dense_;  // [layers]
};

// A method in which the position of a row alone decides which keys it attends to. Nothing is scored
// and nothing is selected.
class PositionPolicy : public BaselinePolicy {
 public:
  using BaselinePolicy::BaselinePolicy;

 protected:
  void choose(Backend& backend, const AttentionInput& in, Selection& selection) const final {
    backend.select_none(in.cache, in.step, in.tiles, selection);
  }
  int64_t rows_to_choose(const Candidates& /*candidates*/, int32_t /*position*/) const final {
    return 0;
  }
  Scores scores() const final { return Scores::kNothing; }
};

// The query tile of the baselines with a budget is kBaselineTile, the default of the kascade
// family; Quest rounds it up to whole pages.
inline constexpr int32_t kBaselineTile = 32;
std::shared_ptr<const AttentionPolicy> make_baseline_policy(const BaselineAttention& settings,
                                                            int32_t layers);

std::shared_ptr<const AttentionPolicy> make_oracle_policy(const BaselineAttention& settings,
                                                          int32_t layers);
std::shared_ptr<const AttentionPolicy> make_streaming_policy(const BaselineAttention& settings,
                                                             int32_t layers);
std::shared_ptr<const AttentionPolicy> make_quest_policy(const BaselineAttention& settings,
                                                         int32_t layers);
// Window and chunk.
std::shared_ptr<const AttentionPolicy> make_nearby_policy(const BaselineAttention& settings,
                                                          int32_t layers);

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_BASELINE_H_
