#include "engine/calibration/measured_layers.h"

#include <algorithm>
#include <cmath>

namespace kascade {
namespace {

constexpr double kShareOfMedian = 0.9;

// Of an even number of values the mean of the middle two. `values` must not be empty.
double median(std::vector<double> values) {
  std::ranges::sort(values);
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// Means over the KV heads of a reuse layer. Rounding can put a share a little above 1.
double similarity_of(const Similarity& similarity, const LayerSchedule& layer, int32_t index) {
  double sum = 0;
  for (int32_t g = 0; g < similarity.kv_heads(); ++g) {
    sum += similarity.at(layer.anchor, index, g, layer.head_map[g]);
  }
  return std::clamp(sum / similarity.kv_heads(), 0.0, 1.0);
}

double recall_of(const Similarity& similarity, const LayerSchedule& layer, int32_t index) {
  if (layer.role != Role::kReuse) return std::clamp(similarity.self_recall[index], 0.0, 1.0);
  double sum = 0;
  for (int32_t g = 0; g < similarity.kv_heads(); ++g) {
    sum += similarity.recall(layer.anchor, index, g, layer.head_map[g]);
  }
  return std::clamp(sum / similarity.kv_heads(), 0.0, 1.0);
}

bool is_in(const std::vector<int32_t>& layers, int32_t layer) {
  return std::ranges::find(layers, layer) != layers.end();
}

// The largest threshold in whole percent that `similarity` reaches.
double threshold_below(double similarity) {
  double percent = std::floor(similarity * 100);
  if (percent / 100 > similarity) --percent;
  return std::max(0.0, percent / 100);
}

}  // namespace

std::vector<MeasuredLayer> measured_layers(const std::vector<LayerSchedule>& layers,
                                           const Similarity& mean,
                                           const std::vector<Similarity>& windows) {
  std::vector<MeasuredLayer> measured;
  for (int32_t index = 0; index < mean.layers(); ++index) {
    const LayerSchedule& layer = layers[index];
    MeasuredLayer& out = measured.emplace_back(MeasuredLayer{recall_of(mean, layer, index)});
    if (layer.role != Role::kReuse) continue;
    std::vector<double> values;
    for (const Similarity& window : windows) values.push_back(similarity_of(window, layer, index));
    const auto [min, max] = std::ranges::minmax(values);
    out.similarity = {.min = min, .median = median(values), .max = max};
  }
  return measured;
}

std::optional<SimilarPair> most_similar_pair(const Similarity& similarity, int32_t max_reuse_dist,
                                             const std::vector<int32_t>& dense) {
  std::optional<SimilarPair> best;
  for (int32_t layer = 2; layer < similarity.layers(); ++layer) {
    if (is_in(dense, layer)) continue;
    for (int32_t anchor = std::max(1, layer - max_reuse_dist + 1); anchor < layer; ++anchor) {
      const double found = similarity.layer(anchor, layer);
      if (best && found <= best->similarity) continue;
      best = {layer, anchor, found, threshold_below(found)};
    }
  }
  return best;
}

std::optional<AutoThreshold> auto_threshold(const Similarity& similarity,
                                            const std::vector<int32_t>& dense) {
  std::vector<double> neighbours;
  for (int32_t layer = 2; layer < similarity.layers(); ++layer) {
    if (!is_in(dense, layer)) neighbours.push_back(similarity.layer(layer - 1, layer));
  }
  if (neighbours.empty()) return std::nullopt;
  const double middle = median(neighbours);
  return AutoThreshold{.median_similarity = middle, .threshold = kShareOfMedian * middle};
}

}  // namespace kascade
