// Dense attention: every row attends to all causal keys.
#include "engine/attention/policy.h"

namespace kascade {
namespace {

class DensePolicy final : public AttentionPolicy {
 public:
  const SelectionSettings& rule() const override { return rule_; }
  bool chooses_keys() const override { return false; }
  void attend(Backend& backend, int32_t /*layer*/, const AttentionInput& in,
              PolicyState& /*scratch*/) const override {
    backend.attend(in.q, in.cache, in.batch, in.tiles, KeySet{}, in.out);
  }
  KeyCounts count(int32_t /*layer*/, const TileSpan& tile) const override {
    return count_all_keys(tile);
  }
  Role role(int32_t /*layer*/) const override { return Role::kDense; }

 private:
  // Only the tile size matters: it is the grain in which backends share out rows.
  SelectionSettings rule_{};
};

}  // namespace

KeyCounts count_all_keys(const TileSpan& tile) {
  const int64_t rows = tile.last - tile.first + 1;
  const int64_t causal = rows * (int64_t{tile.first} + tile.last + 2) / 2;
  return {.causal = causal, .attended = causal, .scored = 0, .kv_rows_read = 2 * causal};
}

std::shared_ptr<const AttentionPolicy> make_dense_policy() {
  return std::make_shared<DensePolicy>();
}

}  // namespace kascade
