// Decides which keys each layer attends to, never computes them. A policy belongs to sequences, is
// immutable and shared by all that use it; what one layer hands the next lives in PolicyState.
#ifndef KASCADE_ENGINE_ATTENTION_POLICY_H_
#define KASCADE_ENGINE_ATTENTION_POLICY_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/attention/choice.h"
#include "engine/attention/candidates.h"
#include "engine/backend/backend.h"
#include "engine/backend/batch.h"
#include "engine/schedule/schedule.h"

namespace kascade {

// How a backend is to choose by a schedule's rule.
constexpr SelectOptions to_select_options(const SelectionSettings& rule) {
  if (rule.family == Family::kTile) return {Pooling::kLastRowMax, rule.query_tile};
  const bool sum = rule.pooling == ScorePooling::kSum;
  return {sum ? Pooling::kSum : Pooling::kMax, 1, rule.all_heads};
}

// One layer's attention for the tiles of one policy.
struct AttentionInput {
  Tensor q;  // f32 [batch rows, heads · head_dim], rotated
  LayerCache cache;
  const Batch& batch;
  TileRange tiles;
  Tensor out;  // f32 [batch rows, heads · head_dim]; only the tiles' rows are written
};

// What the layers of one step hand each other, per policy; reused from step to step.
struct PolicyState {
  std::vector<Selection> selections;  // [layers], filled where a layer selects
};

// Keys per KV head that the rows of a tile read in one layer, summed over the rows (method, A6).
struct KeyCounts {
  int64_t causal = 0;
  int64_t attended = 0;
  int64_t scored = 0;
  int64_t kv_rows_read = 0;  // row by row: K rows + V rows, each once

  KeyCounts& operator+=(const KeyCounts& other) {
    causal += other.causal;
    attended += other.attended;
    scored += other.scored;
    kv_rows_read += other.kv_rows_read;
    return *this;
  }
};

// Consecutive positions that share one choice of keys; one position by the row rule.
struct TileSpan {
  int32_t first = 0;
  int32_t last = 0;  // inclusive
  bool per_query = false;
};

// Of a layer that attends to all causal keys.
KeyCounts count_all_keys(const TileSpan& tile);

class AttentionPolicy {
 public:
  virtual ~AttentionPolicy() = default;

  // How the batcher cuts rows into tiles and sets budgets.
  virtual const SelectionSettings& rule() const = 0;
  // Whether rows that share a tile share a choice of keys. If not, the deciding rule (tile or row)
  // makes no difference, and rows stay together in tiles, which are faster.
  virtual bool chooses_keys() const = 0;
  // What a row may choose from, as candidates_of(); a function of the position alone.
  virtual Candidates candidates(int32_t position, bool row) const {
    return candidates_of(rule(), position, row);
  }
  // Selections that are kept at a time while a step runs.
  virtual int32_t selections() const { return 0; }

  virtual void attend(Backend& backend, int32_t layer, const AttentionInput& in,
                      PolicyState& scratch) const = 0;

  virtual KeyCounts count(int32_t layer, const TileSpan& tile) const = 0;
  virtual Role role(int32_t layer) const = 0;

  // Whether observe_residual() wants to be called; costs a copy of the residual stream.
  virtual bool observes_residual() const { return false; }
  // The residual stream of the tiles' rows before and after the layer's attention was added.
  virtual void observe_residual(int32_t /*layer*/, const Batch& /*batch*/, TileRange /*tiles*/,
                                Tensor /*before*/, Tensor /*after*/) const {}
};

// Every layer attends to all causal keys.
std::shared_ptr<const AttentionPolicy> make_dense_policy();

// `ratio` overrides the schedule's (Family::kKascade only; CHECKed). The schedule must be valid.
std::shared_ptr<const AttentionPolicy> make_kascade_policy(std::shared_ptr<const Schedule> schedule,
                                                           std::optional<double> ratio);

// Other people's ways, to compare with. Settings must be valid (check_request). Their rows have
// tiles of kBaselineTile positions, as the kascade family's by default, or of whole pages.
inline constexpr int32_t kBaselineTile = 32;
std::shared_ptr<const AttentionPolicy> make_baseline_policy(const BaselineAttention& settings,
                                                            int32_t layers);

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_POLICY_H_
