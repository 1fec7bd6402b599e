// Dense attention: every row attends to all causal keys.
#include "engine/attention/policy.h"

namespace kascade {
namespace {

class DensePolicy final : public AttentionPolicy {
 public:
  explicit DensePolicy(int32_t query_tile) : query_tile_(query_tile) {}

  // Tiles serve only to divide the rows among the backend's threads.
  Tiling tiling() const override { return {.query_tile = query_tile_}; }
  Candidates candidates(int32_t /*position*/, bool /*per_query*/) const override { return {}; }
  void attend(Backend& backend, int32_t /*layer*/, const AttentionInput& in,
              PolicyState& /*state*/) const override {
    backend.attend(in.q, in.cache, in.step, in.tiles, KeySet{}, in.out);
  }
  AttendedKeys attended_keys(int32_t layer, const PolicyState& /*state*/) const override {
    return {.source = layer};
  }
  KeysRead keys_read(int32_t /*layer*/, const TileSpan& tile) const override {
    return all_keys_read(tile);
  }
  LayerKind layer_kind(int32_t /*layer*/) const override { return LayerKind::kDense; }

 private:
  int32_t query_tile_;
};

}  // namespace

KeysRead all_keys_read(const TileSpan& tile) {
  const int64_t rows = tile.last - tile.first + 1;
  const int64_t causal = rows * (int64_t{tile.first} + tile.last + 2) / 2;
  return {.causal = causal, .attended = causal, .scored = 0, .kv_rows = 2 * causal};
}

std::shared_ptr<const AttentionPolicy> make_dense_policy(int32_t query_tile) {
  return std::make_shared<DensePolicy>(query_tile);
}

}  // namespace kascade
