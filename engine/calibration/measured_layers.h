// What a calibration has measured of the layers of a schedule, and what follows from similarities
// for the threshold of the greedy planner. All functions are pure.
#ifndef KASCADE_ENGINE_CALIBRATION_MEASURED_LAYERS_H_
#define KASCADE_ENGINE_CALIBRATION_MEASURED_LAYERS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/schedule/schedule.h"

namespace kascade {

// How the similarity of a reuse layer to its source spreads over the measured windows, [0, 1].
struct SimilaritySpread {
  double min = 0;
  double median = 0;
  double max = 0;
};

struct MeasuredLayer {
  // The share of the layer's attention that falls on the keys selected for it, [0, 1]: a reuse
  // layer's by its source through the head map, those of all other layers by the layer itself.
  double recall = 0;
  std::optional<SimilaritySpread> similarity{};  // only of reuse layers
};

// `mean` is the mean of `windows`, of which there is at least one.
std::vector<MeasuredLayer> measured_layers(const std::vector<LayerSchedule>& layers,
                                           const Similarity& mean,
                                           const std::vector<Similarity>& windows);

// A layer and one before it that the greedy planner may let it reuse.
struct SimilarPair {
  int32_t layer = 0;
  int32_t anchor = 0;
  double similarity = 0;
  double threshold = 0;  // the largest one in whole percent at which the layer would reuse
};

// Returns the most similar pair, of equally similar ones the first; unset if there is no pair.
// Layers of `dense` reuse nothing, and layer 0 serves no other layer.
std::optional<SimilarPair> most_similar_pair(const Similarity& similarity, int32_t max_reuse_dist,
                                             const std::vector<int32_t>& dense);

// A threshold that lets some layer reuse in most models: 0.9 × the median of the similarities to
// the layer before, over the layers from 2 on that are not in `dense`. Unset if there is none.
struct AutoThreshold {
  double median_similarity = 0;
  double threshold = 0;
};
std::optional<AutoThreshold> auto_threshold(const Similarity& similarity,
                                            const std::vector<int32_t>& dense);

}  // namespace kascade

#endif  // KASCADE_ENGINE_CALIBRATION_MEASURED_LAYERS_H_
