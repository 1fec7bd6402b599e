#include <algorithm>
#include <limits>
#include <numeric>

#include "absl/strings/str_format.h"
#include "engine/schedule/schedule.h"

namespace kascade {
namespace {

std::vector<bool> mark_dense(int32_t layers, const std::vector<int32_t>& dense) {
  std::vector<bool> marked(layers, false);
  for (const int32_t layer : dense) {
    if (layer > 0 && layer < layers) marked[layer] = true;
  }
  return marked;
}

LayerSchedule selecting_layer(const Similarity& similarity, int32_t layer, Role role,
                              std::string reason) {
  std::vector<int32_t> identity(similarity.kv_heads());
  std::iota(identity.begin(), identity.end(), 0);
  return {.role = role,
          .anchor = layer,
          .head_map = std::move(identity),
          .similarity = 1,
          .importance = std::clamp(similarity.importance[layer], 0.0, 2.0),
          .reuse_cost = similarity.reuse_cost[layer],
          .reason = std::move(reason)};
}

LayerSchedule dense_layer(const Similarity& similarity, int32_t layer) {
  std::string reason = layer == 0 ? "first layer" : "kept dense";
  const double recall = similarity.self_recall[layer];
  const double cost = similarity.select_cost.empty() ? 0 : similarity.select_cost[layer];
  if (layer != 0 && cost > 0) {
    reason += absl::StrFormat(": its own choice costs %.5f nats", cost);
  } else if (layer != 0 && recall > 0) {
    reason += absl::StrFormat(": its own budget recalls %.2f %%", 100 * recall);
  }
  return selecting_layer(similarity, layer, Role::kDense, std::move(reason));
}

// Dynamic programming over segments [start, end): layer `start` selects, and the layers after it
// reuse its selection (docs/method.md, "Planners").
class OptimalSchedules {
 public:
  OptimalSchedules(const Similarity& similarity, std::vector<bool> dense)
      : similarity_(similarity),
        dense_(std::move(dense)),
        layers_(similarity.layers()),
        most_anchors_(layers_ -
                      static_cast<int32_t>(std::count(dense_.begin(), dense_.end(), true))),
        cells_(static_cast<size_t>(most_anchors_ + 1) * (layers_ + 1)) {
    cell(0, 0) = {.start = 0, .value = 0};
    for (int32_t start = 0; start < layers_; ++start) extend_from(start);
  }

  int32_t most_anchors() const { return most_anchors_; }

  std::vector<LayerSchedule> schedule(int32_t anchors) const {
    std::vector<bool> selects(layers_, false);
    for (int32_t end = layers_; end > 0;) {
      const int32_t start = cell(anchors, end).start;
      selects[start] = true;
      anchors -= cost(start);
      end = start;
    }
    std::vector<LayerSchedule> schedule;
    int32_t source = 0;
    for (int32_t layer = 0; layer < layers_; ++layer) {
      if (selects[layer]) source = layer;
      schedule.push_back(layer_schedule(layer, source));
    }
    return schedule;
  }

 private:
  static constexpr int32_t kUnreached = -1;
  // The value of the best schedule of the first `end` layers with `anchors` anchors, and the layer
  // with which its last segment starts.
  struct Cell {
    int32_t start = kUnreached;
    double value = 0;
  };

  Cell& cell(int32_t anchors, int32_t end) {
    return cells_[static_cast<size_t>(anchors) * (layers_ + 1) + end];
  }
  const Cell& cell(int32_t anchors, int32_t end) const {
    return cells_[static_cast<size_t>(anchors) * (layers_ + 1) + end];
  }
  int32_t cost(int32_t start) const { return dense_[start] ? 0 : 1; }
  double gain(int32_t start, int32_t layer) const {
    const double similarity = similarity_.layer(start, layer);
    if (similarity_.layer_cost.empty()) return similarity_.importance[layer] * similarity;
    const double lost = std::max(0.0, 1 - similarity);
    return -similarity_.layer_cost[layer] * lost * lost;
  }

  // Adds the segments that begin with layer `start`. It is called with ascending starts, and only a
  // strictly better segment replaces another, so of equal values the lowest start remains.
  void extend_from(int32_t start) {
    double segment = 0;
    for (int32_t end = start + 1; end <= layers_; ++end) {
      const int32_t layer = end - 1;
      if (layer != start && dense_[layer]) return;
      segment += gain(start, layer);
      for (int32_t before = 0; before + cost(start) <= most_anchors_; ++before) {
        const Cell& prefix = cell(before, start);
        if (prefix.start == kUnreached) continue;
        Cell& reached = cell(before + cost(start), end);
        const double value = prefix.value + segment;
        if (reached.start == kUnreached || value > reached.value) reached = {start, value};
      }
    }
  }

  LayerSchedule layer_schedule(int32_t layer, int32_t source) const {
    if (layer == 0 || dense_[layer]) return dense_layer(similarity_, layer);
    if (layer != source) return reuse_layer(similarity_, layer, source);
    return selecting_layer(similarity_, layer, Role::kAnchor, "best set");
  }

  const Similarity& similarity_;
  std::vector<bool> dense_;
  int32_t layers_;
  int32_t most_anchors_;
  std::vector<Cell> cells_;  // [most_anchors + 1, layers + 1]
};

// The layer whose selection another layer would reuse.
struct Source {
  int32_t layer = -1;  // -1 if none is in reach
  double similarity = 0;
};

// For the layer after those of `schedule`: of the selecting layers in reach the most similar one.
Source best_source(const Similarity& similarity, const std::vector<LayerSchedule>& schedule,
                   int32_t max_reuse_dist) {
  const auto layer = static_cast<int32_t>(schedule.size());
  Source best;
  for (int32_t distance = 1; distance < max_reuse_dist && distance < layer; ++distance) {
    const int32_t source = layer - distance;
    if (schedule[source].role == Role::kReuse) continue;
    const double found = similarity.layer(source, layer);
    if (best.layer < 0 || found > best.similarity) best = {source, found};
  }
  return best;
}

}  // namespace

Similarity::Similarity(int32_t layers, int32_t kv_heads)
    : importance(layers, 0.0),
      reuse_cost(layers),
      self_recall(layers, 0.0),
      layers_(layers),
      kv_heads_(kv_heads),
      values_(static_cast<size_t>(layers) * layers * kv_heads * kv_heads, 0.0),
      recalls_(values_.size(), 0.0) {
  for (int32_t layer = 0; layer < layers; ++layer) {
    for (int32_t head = 0; head < kv_heads; ++head) at(layer, layer, head, head) = 1;
  }
}

size_t Similarity::index(int32_t a, int32_t b, int32_t g_b, int32_t g_a) const {
  const size_t pair = static_cast<size_t>(a) * layers_ + b;
  return (pair * kv_heads_ + g_b) * kv_heads_ + g_a;
}

double& Similarity::at(int32_t a, int32_t b, int32_t g_b, int32_t g_a) {
  return values_[index(a, b, g_b, g_a)];
}

double Similarity::at(int32_t a, int32_t b, int32_t g_b, int32_t g_a) const {
  return values_[index(a, b, g_b, g_a)];
}

std::vector<int32_t> Similarity::head_map(int32_t a, int32_t b) const {
  std::vector<int32_t> map(kv_heads_, 0);
  for (int32_t g_b = 0; g_b < kv_heads_; ++g_b) {
    for (int32_t g_a = 1; g_a < kv_heads_; ++g_a) {
      if (at(a, b, g_b, g_a) > at(a, b, g_b, map[g_b])) map[g_b] = g_a;
    }
  }
  return map;
}

double Similarity::layer(int32_t a, int32_t b) const {
  const std::vector<int32_t> map = head_map(a, b);
  double sum = 0;
  for (int32_t g_b = 0; g_b < kv_heads_; ++g_b) sum += at(a, b, g_b, map[g_b]);
  return sum / kv_heads_;
}

void Similarity::forget_costs() {
  reuse_cost.assign(static_cast<size_t>(layers_), std::nullopt);
  layer_cost.clear();
  select_cost.clear();
}

// Rounding can put a measured similarity a little above 1, but a schedule states a share.
LayerSchedule reuse_layer(const Similarity& similarity, int32_t layer, int32_t anchor) {
  return {.role = Role::kReuse,
          .anchor = anchor,
          .head_map = similarity.head_map(anchor, layer),
          .similarity = std::clamp(similarity.layer(anchor, layer), 0.0, 1.0),
          .importance = std::clamp(similarity.importance[layer], 0.0, 2.0),
          .reuse_cost = similarity.reuse_cost[layer]};
}

std::vector<std::vector<LayerSchedule>> schedules_by_dynamic_programming(
    const Similarity& similarity, const std::vector<int32_t>& dense) {
  const OptimalSchedules optimal(similarity, mark_dense(similarity.layers(), dense));
  std::vector<std::vector<LayerSchedule>> schedules;
  for (int32_t anchors = 1; anchors <= optimal.most_anchors(); ++anchors) {
    schedules.push_back(optimal.schedule(anchors));
  }
  return schedules;
}

double predicted_similarity(const std::vector<LayerSchedule>& schedule) {
  double weighted_sum = 0, importance = 0, sum = 0;
  for (const LayerSchedule& layer : schedule) {
    weighted_sum += layer.importance * layer.similarity;
    importance += layer.importance;
    sum += layer.similarity;
  }
  if (schedule.empty()) return 0;
  return importance > 0 ? weighted_sum / importance : sum / static_cast<double>(schedule.size());
}

std::vector<LayerSchedule> greedy_schedule(const Similarity& similarity,
                                           const GreedyOptions& options,
                                           const std::vector<int32_t>& dense) {
  const std::vector<bool> is_dense = mark_dense(similarity.layers(), dense);
  std::vector<LayerSchedule> schedule;
  bool has_source = false;
  for (int32_t layer = 0; layer < similarity.layers(); ++layer) {
    const Source source = best_source(similarity, schedule, options.max_reuse_dist);
    if (layer == 0 || is_dense[layer]) {
      schedule.push_back(dense_layer(similarity, layer));
    } else if (source.layer >= 0 && source.similarity >= options.threshold) {
      schedule.push_back(reuse_layer(similarity, layer, source.layer));
    } else {
      std::string reason = !has_source ? "first sparse layer" : "distance";
      if (source.layer >= 0) {
        reason = absl::StrFormat("low similarity: %.2f %% to layer %d", 100 * source.similarity,
                                 source.layer);
      }
      schedule.push_back(selecting_layer(similarity, layer, Role::kAnchor, std::move(reason)));
    }
    has_source = has_source || layer > 0;
  }
  return schedule;
}

}  // namespace kascade
