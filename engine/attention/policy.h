// An attention policy decides which keys each layer attends to and has the backend compute it. A
// policy is immutable and is shared by all sequences that use it; what one layer hands to the next
// is kept in PolicyState.
#ifndef KASCADE_ENGINE_ATTENTION_POLICY_H_
#define KASCADE_ENGINE_ATTENTION_POLICY_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "engine/attention/candidates.h"
#include "engine/attention/choice.h"
#include "engine/attention/key_counts.h"
#include "engine/backend/backend.h"
#include "engine/backend/batch.h"

namespace kascade {

// How the rows of a sequence are divided into tiles. Tiles begin at multiples of query_tile, and
// the chunks of a prompt end there.
struct Tiling {
  int32_t query_tile = 32;  // positions, [1, 128]
  // Whether the rows of a tile share one selection. If they do, a row's result depends on whether
  // it stands in a tile or alone, so that rows that select per query get tiles of their own. If
  // not, rows are grouped in tiles everywhere, because that is faster.
  bool shares_selection = false;
};

// One layer's attention for the tiles of one policy.
struct AttentionInput {
  Tensor q;       // f32 [batch rows, heads · head_dim], rotated
  Tensor hidden;  // f32 [batch rows, hidden], the layer's input after its norm
  LayerCache cache;
  const Batch& batch;
  const StepInput& step;  // the batch, as the backend prepared it
  TileRange tiles;
  Tensor out;  // f32 [batch rows, heads · head_dim]; only the tiles' rows are written
};

// The selections that the layers of one step hand to each other, for the tiles of one policy. The
// object is reused from step to step.
class PolicyState {
 public:
  // The index-th selection; `backend` makes it when it is first asked for.
  Selection& selection(Backend& backend, int32_t index);
  // Null if that selection was never asked for.
  const Selection* find(int32_t index) const;
  int32_t size() const { return static_cast<int32_t>(selections_.size()); }

  // Runs `select` and adds the time that it takes to selection_time().
  template <typename Select>
  void timed(Select select) {
    const auto begin = std::chrono::steady_clock::now();
    select();
    selection_time_ += std::chrono::steady_clock::now() - begin;
  }
  // The time that selecting keys has taken since the object was made.
  std::chrono::nanoseconds selection_time() const { return selection_time_; }

 private:
  std::chrono::nanoseconds selection_time_{};
  std::vector<std::unique_ptr<Selection>> selections_;
};

// What one layer selected and attends to in a step. It is valid from the layer's attend() to the
// next attend() with the same state, and as long as the policy.
struct AttendedKeys {
  KeySet keys{};                        // as Backend::attend() takes it
  const Selection* selected = nullptr;  // the layer's own selection; null if it made none
  // How the keys of `selected` were ranked. By pool_scores(), unless the method ranks by something
  // else; then `options.unit` alone has a meaning.
  SelectOptions options{};
  bool ranked_by_scores = false;
  int32_t source = 0;      // layer whose selection it attends to; the layer itself unless it reuses
  int32_t first_tile = 0;  // tile of the batch that is the first one of the selections
};

// The kinds of layers that statistics distinguish.
enum class LayerKind {
  kDense,      // attends to all causal keys
  kSelecting,  // selects keys
  kReusing,    // attends to keys that an earlier layer selected
  kWindow,     // attends to keys by their position alone; nothing is selected
};
inline constexpr int kLayerKinds = 4;
constexpr std::string_view name_of(LayerKind kind) {
  constexpr std::string_view kNames[kLayerKinds] = {"dense", "anchor", "reuse", "window"};
  return kNames[static_cast<int>(kind)];
}

class AttentionPolicy {
 public:
  virtual ~AttentionPolicy() = default;

  virtual Tiling tiling() const = 0;
  // The keys that a row may select from and how many it selects. This depends only on the row's
  // position, so that chunks, batches and the final length of a text cannot change a selection.
  // With `per_query` the row selects alone. Otherwise it belongs to a tile and has the candidates
  // of the tile's first row.
  virtual Candidates candidates(int32_t position, bool per_query) const = 0;
  // Whether the row at this position attends to all keys in every layer because sparse attention
  // does not pay there (SelectionSettings::dense_below).
  virtual bool attends_to_all(int32_t /*position*/) const { return false; }
  // How many selections a step holds at the same time at most; the memory for selections limits the
  // rows of a step by it.
  virtual int32_t selections_at_once() const { return 0; }

  virtual void attend(Backend& backend, int32_t layer, const AttentionInput& in,
                      PolicyState& state) const = 0;
  // For observers: what the latest attend() of the layer did. `first_tile` is left at 0.
  virtual AttendedKeys attended_keys(int32_t layer, const PolicyState& state) const = 0;

  // What the layer reads for a tile. Where the number of selected keys follows the scores this is
  // an upper bound, because it is asked before anything is computed.
  virtual KeysRead keys_read(int32_t layer, const TileSpan& tile) const = 0;
  // What the latest attend() of the layer read for a tile, per KV head and summed over them.
  // `index` is the tile's index in the selections of `state`.
  virtual KeysRead keys_read_by_heads(int32_t layer, const TileSpan& tile, int32_t kv_heads,
                                      const PolicyState& state, int32_t index) const;
  virtual LayerKind layer_kind(int32_t layer) const = 0;
};

// Every layer attends to all causal keys, in tiles of `query_tile` rows.
std::shared_ptr<const AttentionPolicy> make_dense_policy(int32_t query_tile = 32);

// The most rows of one step that may select per query, so that all selections that exist at a time
// fit in `bytes`, for a text of `tokens` tokens. At least one, so that every sequence advances; 0
// if the policy keeps no selections and so needs no limit.
int32_t per_query_rows(const AttentionPolicy& policy, int32_t kv_heads, int32_t tokens,
                       int64_t bytes);

// The policy of a choice for a model of `layers` layers. The choice must be valid
// (engine/request.h).
std::shared_ptr<const AttentionPolicy> make_policy(const AttentionChoice& choice, int32_t layers);

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_POLICY_H_
