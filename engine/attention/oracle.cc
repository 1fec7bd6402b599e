// Oracle top-k: every layer scores all keys and attends to the best ones, selected as by an anchor
// layer of the kascade family. The difference to a schedule is what reuse loses.
#include <memory>

#include "engine/attention/baseline.h"

namespace kascade {
namespace {

class OraclePolicy final : public BaselinePolicy {
 public:
  OraclePolicy(const BaselineAttention& settings, int32_t layers)
      : BaselinePolicy(settings, kBaselineTile, layers) {}

 protected:
  void choose(Backend& backend, const AttentionInput& in, Selection& selection) const override {
    backend.select_keys(in.q, in.cache, in.step, in.tiles, select_options(), selection);
  }
  int64_t rows_to_choose(const Candidates& /*candidates*/, int32_t position) const override {
    return int64_t{position} + 1;
  }
  Scores scores() const override { return Scores::kKeys; }
  SelectOptions select_options() const override { return {Pooling::kSum, 1}; }
};

}  // namespace

std::shared_ptr<const AttentionPolicy> make_oracle_policy(const BaselineAttention& settings,
                                                          int32_t layers) {
  return std::make_shared<OraclePolicy>(settings, layers);
}

}  // namespace kascade
