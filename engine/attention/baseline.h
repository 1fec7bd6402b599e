// What the baselines share: which layers stay dense, how many keys a row attends to, and how that
// is counted. Each chooses its keys in a file of its own.
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

  const SelectionSettings& rule() const final { return rule_; }
  Role role(int32_t layer) const final { return dense_[layer] ? Role::kDense : Role::kAnchor; }
  void attend(Backend& backend, int32_t layer, const AttentionInput& in,
              PolicyState& scratch) const final;
  KeyCounts count(int32_t layer, const TileSpan& tile) const final;

 protected:
  // The keys of the tiles in one layer.
  virtual void choose(Backend& backend, const AttentionInput& in, Selection& selection) const = 0;
  // Rows of the key cache that are read to choose for the row at `position`; 0 if all are taken.
  virtual int64_t rows_to_choose(const Candidates& candidates, int32_t position) const = 0;
  // Whether rows read to choose are keys, which attending then need not read again.
  virtual bool scores_keys() const = 0;

 private:
  SelectionSettings rule_;
  std::vector<bool> dense_;  // [layers]
};

std::shared_ptr<const AttentionPolicy> make_oracle_policy(const BaselineAttention& settings,
                                                          int32_t layers);
std::shared_ptr<const AttentionPolicy> make_streaming_policy(const BaselineAttention& settings,
                                                             int32_t layers);
std::shared_ptr<const AttentionPolicy> make_quest_policy(const BaselineAttention& settings,
                                                         int32_t layers);

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_BASELINE_H_
