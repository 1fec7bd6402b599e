// Dense attention: every row attends to all causal keys.
#include "engine/attention/policy.h"

namespace kascade {
namespace {

class DensePolicy final : public AttentionPolicy {
 public:
  const SelectionRule& rule() const override { return rule_; }
  void attend(Backend& backend, int32_t /*layer*/, const AttentionInput& in,
              AttentionScratch& /*scratch*/) const override {
    backend.attend(in.q, in.cache, in.batch, in.tiles, KeySet{}, in.out);
  }
  RowCounts count(int32_t /*layer*/, int32_t position) const override {
    const int64_t causal = int64_t{position} + 1;
    return {.attended = causal, .scored = 0, .kv_rows_read = 2 * causal};
  }
  Role role(int32_t /*layer*/) const override { return Role::kDense; }

 private:
  // Only the tile size matters: it is the grain in which backends share out rows.
  SelectionRule rule_{};
};

}  // namespace

std::shared_ptr<const AttentionPolicy> make_dense_policy() {
  return std::make_shared<DensePolicy>();
}

}  // namespace kascade
