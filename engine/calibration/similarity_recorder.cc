#include "engine/calibration/similarity_recorder.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "engine/backend/host/select.h"
#include "engine/base/check.h"

namespace kascade {
namespace {

constexpr int32_t kMostSamples = 64;

double sum_at(const std::vector<int32_t>& keys, const float* mass) {
  double sum = 0;
  for (const int32_t key : keys) sum += mass[key];
  return sum;
}

double jaccard(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  size_t common = 0;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    common += a[i] == b[j];
    const bool advance_a = a[i] <= b[j];
    const bool advance_b = b[j] <= a[i];
    i += advance_a;
    j += advance_b;
  }
  const size_t all = a.size() + b.size() - common;
  return all == 0 ? 1.0 : static_cast<double>(common) / static_cast<double>(all);
}

double cosine(const float* x, const float* y, int64_t size) {
  double xy = 0, xx = 0, yy = 0;
  for (int64_t i = 0; i < size; ++i) {
    xy += double{x[i]} * y[i];
    xx += double{x[i]} * x[i];
    yy += double{y[i]} * y[i];
  }
  return xx == 0 || yy == 0 ? 1.0 : xy / std::sqrt(xx * yy);
}

}  // namespace

std::set<int32_t> sampled_tiles(const SelectionSettings& rule, int32_t tokens) {
  std::vector<int32_t> starts;
  for (int32_t start = 0; start + rule.query_tile <= tokens; start += rule.query_tile) {
    if (!candidates_of(rule, start, /*row=*/false).takes_all()) starts.push_back(start);
  }
  std::set<int32_t> samples;
  const auto all = static_cast<int64_t>(starts.size());
  const int64_t wanted = std::min<int64_t>(kMostSamples, all);
  for (int64_t i = 1; i <= wanted; ++i) samples.insert(starts[i * all / wanted - 1]);
  return samples;
}

SimilarityRecorder::SimilarityRecorder(const SelectionSettings& rule, SimilarityKind kind,
                                       const RecorderShape& shape, int32_t window_tokens)
    : rule_(rule), kind_(kind), shape_(shape), samples_(sampled_tiles(rule, window_tokens)) {
  recorded_.similarity = Similarity(shape.layers, shape.kv_heads);
  recorded_.importance_tokens.assign(shape.layers, 0);
  const double start = kind == SimilarityKind::kJaccard ? 0.0 : 1.0;
  for (int32_t b = 0; b < shape.layers; ++b) {
    for (int32_t a = 0; a < b; ++a) {
      for (int32_t g = 0; g < shape.kv_heads * shape.kv_heads; ++g) {
        recorded_.similarity.at(a, b, g / shape.kv_heads, g % shape.kv_heads) = start;
      }
    }
    recorded_.similarity.importance[b] = 0;
    recorded_.similarity.self_recall[b] = 0;
  }
}

void SimilarityRecorder::attend(Backend& backend, int32_t layer, const AttentionInput& in,
                                PolicyState& /*scratch*/) const {
  backend.attend(in.q, in.cache, in.batch, in.tiles, KeySet{}, in.out);
  if (layer == 0) recorded_.open.clear();
  for (int32_t tile = in.tiles.begin; tile < in.tiles.begin + in.tiles.count; ++tile) {
    const int32_t first = in.batch.positions[in.batch.tile_start[tile]];
    if (first < recorded_.until || !samples_.contains(first)) continue;
    record(backend, layer, in, tile);
  }
}

void SimilarityRecorder::record(Backend& backend, int32_t layer, const AttentionInput& in,
                                int32_t tile) const {
  const Batch& batch = in.batch;
  const int32_t first = batch.positions[batch.tile_start[tile]];
  const int32_t key_end = batch.positions[batch.tile_start[tile + 1] - 1] + 1;
  const int32_t begin = batch.candidate_begin[tile];
  const int32_t end = batch.candidate_end[tile];
  const int32_t heads = shape_.kv_heads;
  if (layer == 0) {
    recorded_.open.emplace_back(first,
                                TileSets(shape_.layers, std::vector<std::vector<int32_t>>(heads)));
    ++recorded_.tiles;
  }
  const auto open = std::ranges::find(recorded_.open, first, &std::pair<int32_t, TileSets>::first);
  KASCADE_CHECK(open != recorded_.open.end());

  const SelectOptions how = to_select_options(rule_);
  score(backend, in, tile, how.pooling, scores_);
  const Choice choice{begin, end, batch.budget[tile], how.unit};
  for (int32_t g = 0; g < heads; ++g) {
    std::vector<int32_t>& keys = open->second[layer][g];
    keys.resize(batch.budget[tile]);
    choose_keys(scores_.data() + int64_t{g} * key_end, choice, choice_scratch_, keys.data());
  }
  // Keys may be chosen by the largest probability; what they recall is a sum.
  if (how.pooling == Pooling::kSum) {
    masses_ = scores_;
  } else {
    const bool one_row = how.pooling == Pooling::kLastRowMax;
    score(backend, in, tile, one_row ? Pooling::kLastRowSum : Pooling::kSum, masses_);
  }
  fixed_.resize(heads);
  for (int32_t g = 0; g < heads; ++g) {
    const float* mass = masses_.data() + int64_t{g} * key_end;
    fixed_[g] =
        std::accumulate(mass, mass + begin, 0.0) + std::accumulate(mass + end, mass + key_end, 0.0);
  }
  for (int32_t g_b = 0; g_b < heads; ++g_b) {
    const float* mass = masses_.data() + int64_t{g_b} * key_end;
    if (kind_ == SimilarityKind::kJaccard) fold_jaccard(layer, g_b, open->second);
    fold_masses(layer, g_b, open->second, {mass, static_cast<size_t>(key_end)});
  }
}

// [kv_heads, keys]; where heads are pooled too, every head gets what all have together.
void SimilarityRecorder::score(Backend& backend, const AttentionInput& in, int32_t tile,
                               Pooling pooling, std::vector<float>& scores) const {
  const int32_t keys = in.batch.positions[in.batch.tile_start[tile + 1] - 1] + 1;
  scores.resize(static_cast<size_t>(shape_.kv_heads) * keys);
  const Tensor view{scores.data(), DType::kF32, shape_.kv_heads, keys, keys};
  backend.pool_scores(in.q, in.cache, in.batch, tile, pooling, view);
  if (!rule_.all_heads) return;
  pool_heads(view, pooling);
  for (int32_t g = 1; g < shape_.kv_heads; ++g) std::copy_n(view.f32(0), keys, view.f32(g));
}

// Keys that every row attends to anyway (sinks and the tile's own) count on both sides, with the
// mass of the *target* head, unless the published slip is asked for.
void SimilarityRecorder::fold_masses(int32_t layer, int32_t g_b, const TileSets& sets,
                                     std::span<const float> mass) const {
  const double all = std::accumulate(mass.begin(), mass.end(), 0.0);
  const double best = sum_at(sets[layer][g_b], mass.data());
  recorded_.similarity.self_recall[layer] += (best + fixed_[g_b]) / all / shape_.kv_heads;
  if (kind_ == SimilarityKind::kJaccard) return;
  for (int32_t a = 0; a < layer; ++a) {
    for (int32_t g_a = 0; g_a < shape_.kv_heads; ++g_a) {
      const double fixed = fixed_[kind_ == SimilarityKind::kRecalledMassWithSlip ? g_a : g_b];
      const double recalled = (sum_at(sets[a][g_a], mass.data()) + fixed) / (best + fixed);
      double& worst = recorded_.similarity.at(a, layer, g_b, g_a);
      worst = std::min(worst, recalled);
    }
  }
}

void SimilarityRecorder::fold_jaccard(int32_t layer, int32_t g_b, const TileSets& sets) const {
  for (int32_t a = 0; a < layer; ++a) {
    for (int32_t g_a = 0; g_a < shape_.kv_heads; ++g_a) {
      recorded_.similarity.at(a, layer, g_b, g_a) += jaccard(sets[a][g_a], sets[layer][g_b]);
    }
  }
}

void SimilarityRecorder::observe_residual(int32_t layer, const Batch& batch, TileRange tiles,
                                          Tensor before, Tensor after) const {
  const int32_t begin = batch.tile_start[tiles.begin];
  const int32_t end = batch.tile_start[tiles.begin + tiles.count];
  for (int32_t row = begin; row < end; ++row) {
    if (batch.positions[row] < recorded_.until) continue;
    recorded_.similarity.importance[layer] +=
        1.0 - cosine(before.f32(row), after.f32(row), before.cols);
    ++recorded_.importance_tokens[layer];
  }
  if (layer + 1 == shape_.layers) {
    recorded_.until = std::max(recorded_.until, batch.positions[end - 1] + 1);
  }
}

Similarity SimilarityRecorder::window_similarity() const {
  Similarity window = recorded_.similarity;
  const double tiles = std::max(1, recorded_.tiles);
  for (int32_t b = 0; b < shape_.layers; ++b) {
    window.importance[b] /=
        static_cast<double>(std::max<int64_t>(1, recorded_.importance_tokens[b]));
    window.self_recall[b] /= tiles;
    if (kind_ != SimilarityKind::kJaccard) continue;
    for (int32_t a = 0; a < b; ++a) {
      for (int32_t g = 0; g < shape_.kv_heads * shape_.kv_heads; ++g) {
        window.at(a, b, g / shape_.kv_heads, g % shape_.kv_heads) /= tiles;
      }
    }
  }
  return window;
}

Similarity mean_similarity(const std::vector<Similarity>& windows) {
  const auto count = static_cast<double>(windows.size());
  Similarity mean = windows.front();
  const int32_t heads = mean.kv_heads();
  for (int32_t b = 0; b < mean.layers(); ++b) {
    mean.importance[b] = mean.self_recall[b] = 0;
    for (const Similarity& window : windows) {
      mean.importance[b] += window.importance[b] / count;
      mean.self_recall[b] += window.self_recall[b] / count;
    }
    for (int32_t a = 0; a < b; ++a) {
      for (int32_t g = 0; g < heads * heads; ++g) {
        double& value = mean.at(a, b, g / heads, g % heads);
        value = 0;
        for (const Similarity& window : windows) {
          value += window.at(a, b, g / heads, g % heads) / count;
        }
      }
    }
  }
  return mean;
}

}  // namespace kascade
