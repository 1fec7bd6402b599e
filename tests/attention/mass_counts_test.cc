// Tests that keys which were selected by a share of the scores are counted as they were selected.
#include <memory>
#include <vector>

#include "engine/attention/policy.h"
#include "gtest/gtest.h"
#include "tests/support/kernel_cases.h"

namespace kascade::testing {
namespace {

constexpr int32_t kKvHeads = 2;

// Layer 0 is dense and selects for layer 2, layer 1 is an anchor and selects for layer 3. The head
// map of layer 3 gives both heads the selection of head 1.
std::shared_ptr<const Schedule> four_layers(const SelectionSettings& settings) {
  auto schedule = std::make_shared<Schedule>();
  schedule->selection = settings;
  schedule->layers = {{.role = Role::kDense, .anchor = 0, .head_map = {0, 1}},
                      {.role = Role::kAnchor, .anchor = 1, .head_map = {0, 1}},
                      {.role = Role::kReuse, .anchor = 0, .head_map = {1, 0}},
                      {.role = Role::kReuse, .anchor = 1, .head_map = {1, 1}}};
  return schedule;
}

class MassCounts : public ::testing::Test {
 protected:
  MassCounts()
      : shape_{.kv_heads = kKvHeads,
               .group = 2,
               .dim = 16,
               .rule = {.min_keys = 24, .mass = 0.7, .sink_keys = 3},
               .sequences = kSomeSequences},
        data_(shape_, DType::kF32),
        policy_(make_policy(ScheduledAttention{.schedule = four_layers(shape_.rule)}, 4)) {
    const HostBuffer out(DType::kF32, data_.batch.rows(), data_.width());
    const auto step = backend_->prepare(data_.batch);
    for (int32_t layer = 0; layer < 4; ++layer) {
      const AttentionInput input{data_.q,       {},        data_.cache, data_.batch, *step,
                                 data_.tiles(), out.view()};
      policy_->attend(*backend_, layer, input, state_);
    }
  }

  TileSpan span(int32_t tile) const {
    const int32_t first = data_.batch.positions[data_.batch.tile_start[tile]];
    const int32_t last = data_.last_position(tile);
    return {first, last, first >= 300};  // as in kSomeSequences
  }
  // The keys that the rows of a tile attend to in one head, by the selection itself.
  int64_t attended(int32_t layer, int32_t tile, int32_t kv_head) const {
    const KeySet keys = policy_->attended_keys(layer, state_).keys;
    int64_t sum = 0;
    for (int32_t position = span(tile).first; position <= span(tile).last; ++position) {
      const int32_t causal = position + 1;
      const int32_t source = keys.head_map.empty() ? kv_head : keys.head_map[kv_head];
      sum += keys.selection == nullptr
                 ? causal
                 : data_.batch.candidate_begin[tile] + causal - data_.batch.candidate_end[tile] +
                       static_cast<int64_t>(keys.selection->read(tile, source).size());
    }
    return sum;
  }

  AttentionCase shape_;
  AttentionData data_;
  std::unique_ptr<Backend> backend_ = make_reference_backend();
  std::shared_ptr<const AttentionPolicy> policy_;
  PolicyState state_{};
};

TEST_F(MassCounts, AreThoseOfTheSelection) {
  bool heads_differ = false, below_the_estimate = false;
  for (int32_t layer = 0; layer < 4; ++layer) {
    for (int32_t tile = 0; tile < data_.batch.tiles(); ++tile) {
      const KeysRead read = policy_->keys_read_by_heads(layer, span(tile), kKvHeads, state_, tile);
      const KeysRead estimate = policy_->keys_read(layer, span(tile));
      const int64_t first = attended(layer, tile, 0), second = attended(layer, tile, 1);
      EXPECT_EQ(read.attended, first + second) << "layer " << layer << ", tile " << tile;
      EXPECT_EQ(read.causal, estimate.causal * kKvHeads);
      EXPECT_EQ(read.scored, estimate.scored * kKvHeads);
      EXPECT_LE(read.attended, estimate.attended * kKvHeads);
      // An anchor reads each key once to score it, and the values of the attended keys.
      const int64_t keys = read.scored > 0 ? read.scored : read.attended;
      if (layer != 0) {
        EXPECT_EQ(read.kv_rows, keys + read.attended);
      }
      heads_differ |= first != second;
      below_the_estimate |= read.attended < estimate.attended * kKvHeads;
    }
  }
  EXPECT_TRUE(heads_differ);
  EXPECT_TRUE(below_the_estimate);
}

}  // namespace
}  // namespace kascade::testing
