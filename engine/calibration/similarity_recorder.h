// Measures how well the keys that one layer would select serve the later layers (docs/method.md,
// "What calibration measures"). One recorder observes one window that runs with dense attention,
// and looks at some of its query tiles. The engine's thread calls it; calibration reads the result
// after the window's last event.
#ifndef KASCADE_ENGINE_CALIBRATION_SIMILARITY_RECORDER_H_
#define KASCADE_ENGINE_CALIBRATION_SIMILARITY_RECORDER_H_

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "engine/attention/kascade.h"
#include "engine/attention/observer.h"
#include "engine/backend/host/select.h"
#include "engine/schedule/schedule.h"

namespace kascade {

struct RecorderShape {
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t group = 0;  // query heads per KV head
};

// How two selections are compared.
enum class SimilarityKind {
  kRecalledMass,  // by the attention mass that the keys of the one recall in the other's layer
  // The same with a mistake of the published code, to measure what the mistake costs: the mass of
  // the keys that are attended to anyway is taken from the target layer's head with the *source's*
  // head number.
  kRecalledMassWithSlip,
  kJaccard,  // by the sets of keys: intersection divided by union
};

// Returns the first tokens of the tiles that are sampled in a window of `tokens` tokens: full tiles
// with more candidates than budget, at most 64, evenly spaced, the last one included. Empty if
// there is no such tile.
std::set<int32_t> sampled_tiles(const SelectionSettings& settings, int32_t tokens);

class SimilarityRecorder final : public LayerObserver {
 public:
  SimilarityRecorder(const SelectionSettings& settings, SimilarityKind kind,
                     const RecorderShape& shape, int32_t window_tokens);

  int32_t query_tile() const override { return settings_.query_tile; }
  bool measures(int32_t first_position) const override { return samples_.contains(first_position); }
  void attention_computed(Backend& backend, int32_t layer, const AttentionInput& in,
                          const AttendedKeys& keys) override;
  void residual_added(Backend& backend, int32_t layer, const Batch& batch, TileRange tiles,
                      Tensor before, Tensor after) override;

  // The similarities of the window are minima over its sampled tiles (recalled mass) or means
  // (Jaccard). Importance is a mean over tokens, recall and self_recall are means over tiles.
  Similarity window_similarity() const;

 private:
  // The keys that each layer selects for one sampled tile: [layers][kv_heads], ascending.
  using TileSets = std::vector<std::vector<std::vector<int32_t>>>;

  void record(Backend& backend, int32_t layer, const AttentionInput& in, int32_t tile);
  // The keys that the layers so far select for the tile with this first token. Layer 0 starts the
  // tile.
  TileSets& open_tile(int32_t layer, int32_t first);
  // Fills scores_ and `selected` [kv_heads] with the keys that the layer would select.
  void select(Backend& backend, const AttentionInput& in, int32_t tile,
              const Candidates& candidates, std::vector<std::vector<int32_t>>& selected);
  // Fills masses_ and fixed_, and needs the scores_ of select().
  void measure_masses(Backend& backend, const AttentionInput& in, int32_t tile,
                      const Candidates& candidates);
  void score(Backend& backend, const AttentionInput& in, int32_t tile, Pooling pooling,
             std::vector<float>& scores);
  void add_masses(int32_t layer, int32_t g_b, const TileSets& sets, std::span<const float> mass);
  void add_jaccard(int32_t layer, int32_t g_b, const TileSets& sets);

  SelectionSettings settings_;
  SimilarityKind kind_;
  RecorderShape shape_;
  std::set<int32_t> samples_;  // first tokens of the sampled tiles

  Similarity similarity_{0, 0};  // minima or sums over the tiles so far
  std::vector<int64_t> importance_tokens_{};
  int32_t tiles_ = 0;
  // Positions below this one were recorded already. A window that was preempted computes them
  // again.
  int32_t until_ = 0;
  std::vector<std::pair<int32_t, TileSets>>
      open_{};  // sampled tiles of the current step, by first token

  Buffer device_scores_;               // f32 [kv_heads, keys]; grows with the window
  std::vector<float> scores_;          // [kv_heads, keys]
  std::vector<float> masses_;          // [kv_heads, keys]
  std::vector<double> fixed_;          // [kv_heads] mass of sinks and own tile, always attended to
  std::vector<float> before_, after_;  // rows of the residual stream
  ChoiceWorkspace choice_workspace_;
};

// The means over windows of similarities, importance, recall and self_recall.
Similarity mean_similarity(const std::vector<Similarity>& windows);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_SIMILARITY_RECORDER_H_
