// Measures, at sampled query tiles of one window that runs densely, how well the keys that one
// layer would select serve the later layers (method, A5.2–A5.3). Called on the engine's thread;
// read by calibration after the window's last event.
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

// What two selections are compared by: recalled attention mass (dp), or index sets (greedy). With
// the slip, the mass of the keys that are attended to anyway is that of the *source's* head number
// in the target layer, as in the published code: for measuring what that costs.
enum class SimilarityKind { kRecalledMass, kRecalledMassWithSlip, kJaccard };

// First tokens of the tiles to sample in a window of `tokens` tokens: full tiles with more
// candidates than budget, at most 64, evenly spaced, the last one included. Empty when there is
// none.
std::set<int32_t> sampled_tiles(const SelectionSettings& rule, int32_t tokens);

class SimilarityRecorder final : public LayerObserver {
 public:
  SimilarityRecorder(const SelectionSettings& settings, SimilarityKind kind,
                     const RecorderShape& shape, int32_t window_tokens);

  int32_t query_tile() const override { return settings_.query_tile; }
  void attention_computed(Backend& backend, int32_t layer, const AttentionInput& in) override;
  void residual_added(Backend& backend, int32_t layer, const Batch& batch, TileRange tiles,
                      Tensor before, Tensor after) override;

  // The window's figures: minimum over its sampled tiles (recalled mass) or their mean (Jaccard);
  // means over tokens and tiles for importance and self_recall.
  Similarity window_similarity() const;

 private:
  // What one sampled tile selected, layer by layer: [layers][kv_heads] ascending keys.
  using TileSets = std::vector<std::vector<std::vector<int32_t>>>;

  void record(Backend& backend, int32_t layer, const AttentionInput& in, int32_t tile);
  // What the tile with this first token selected so far; begun at layer 0.
  TileSets& open_tile(int32_t layer, int32_t first);
  // Fills scores_ and `selected` [kv_heads] with the keys that the layer would select.
  void select(Backend& backend, const AttentionInput& in, int32_t tile,
              const Candidates& candidates, std::vector<std::vector<int32_t>>& selected);
  // Fills masses_ and fixed_; after select().
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

  Similarity similarity_{0, 0};  // minimum or sum over tiles so far
  std::vector<int64_t> importance_tokens_{};
  int32_t tiles_ = 0;
  int32_t until_ = 0;  // positions below were recorded; a preempted window feeds them again
  std::vector<std::pair<int32_t, TileSets>> open_{};  // tiles of the current step by first token

  Buffer device_scores_;               // f32 [kv_heads, keys], grows
  std::vector<float> scores_;          // [kv_heads, keys]
  std::vector<float> masses_;          // [kv_heads, keys]
  std::vector<double> fixed_;          // [kv_heads] mass of the keys that are attended to anyway
  std::vector<float> before_, after_;  // rows of the residual stream
  ChoiceWorkspace choice_workspace_;
};

// The mean over windows of everything a Similarity holds.
Similarity mean_similarity(const std::vector<Similarity>& windows);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_SIMILARITY_RECORDER_H_
