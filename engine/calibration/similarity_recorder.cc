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

// The number of keys that the last row of the tile may attend to.
int32_t end_of_keys(const Batch& batch, int32_t tile) {
  return batch.positions[batch.tile_start[tile + 1] - 1] + 1;
}

}  // namespace

std::set<int32_t> sampled_tiles(const SelectionSettings& settings, int32_t tokens) {
  std::vector<int32_t> starts;
  for (int32_t start = 0; start + settings.query_tile <= tokens; start += settings.query_tile) {
    if (!candidates_of(settings, start, /*per_query=*/false).takes_all()) starts.push_back(start);
  }
  std::set<int32_t> samples;
  const auto all = static_cast<int64_t>(starts.size());
  const int64_t wanted = std::min<int64_t>(kMostSamples, all);
  for (int64_t i = 1; i <= wanted; ++i) samples.insert(starts[i * all / wanted - 1]);
  return samples;
}

SimilarityRecorder::SimilarityRecorder(const SelectionSettings& settings, SimilarityKind kind,
                                       const RecorderShape& shape, int32_t window_tokens)
    : settings_(settings),
      kind_(kind),
      shape_(shape),
      samples_(sampled_tiles(settings, window_tokens)) {
  similarity_ = Similarity(shape.layers, shape.kv_heads);
  importance_tokens_.assign(shape.layers, 0);
  const double start = kind == SimilarityKind::kJaccard ? 0.0 : 1.0;
  for (int32_t b = 0; b < shape.layers; ++b) {
    for (int32_t a = 0; a < b; ++a) {
      for (int32_t g = 0; g < shape.kv_heads * shape.kv_heads; ++g) {
        similarity_.at(a, b, g / shape.kv_heads, g % shape.kv_heads) = start;
      }
    }
    similarity_.importance[b] = 0;
    similarity_.self_recall[b] = 0;
  }
}

void SimilarityRecorder::attention_computed(Backend& backend, int32_t layer,
                                            const AttentionInput& in,
                                            const AttendedKeys& /*keys*/) {
  if (layer == 0) open_.clear();
  for (int32_t tile = in.tiles.begin; tile < in.tiles.begin + in.tiles.count; ++tile) {
    const int32_t first = in.batch.positions[in.batch.tile_start[tile]];
    if (first < until_ || !samples_.contains(first)) continue;
    record(backend, layer, in, tile);
  }
}

void SimilarityRecorder::record(Backend& backend, int32_t layer, const AttentionInput& in,
                                int32_t tile) {
  const int32_t first = in.batch.positions[in.batch.tile_start[tile]];
  const int32_t key_end = end_of_keys(in.batch, tile);
  const Candidates candidates = candidates_of(settings_, first, /*per_query=*/false);
  TileSets& sets = open_tile(layer, first);
  select(backend, in, tile, candidates, sets[layer]);
  measure_masses(backend, in, tile, candidates);
  for (int32_t g_b = 0; g_b < shape_.kv_heads; ++g_b) {
    const float* mass = masses_.data() + int64_t{g_b} * key_end;
    if (kind_ == SimilarityKind::kJaccard) add_jaccard(layer, g_b, sets);
    add_masses(layer, g_b, sets, {mass, static_cast<size_t>(key_end)});
  }
}

SimilarityRecorder::TileSets& SimilarityRecorder::open_tile(int32_t layer, int32_t first) {
  if (layer == 0) {
    open_.emplace_back(first,
                       TileSets(shape_.layers, std::vector<std::vector<int32_t>>(shape_.kv_heads)));
    ++tiles_;
  }
  const auto open = std::ranges::find(open_, first, &std::pair<int32_t, TileSets>::first);
  KASCADE_CHECK(open != open_.end());
  return open->second;
}

void SimilarityRecorder::select(Backend& backend, const AttentionInput& in, int32_t tile,
                                const Candidates& candidates,
                                std::vector<std::vector<int32_t>>& selected) {
  const SelectOptions options = to_select_options(settings_);
  const int32_t key_end = end_of_keys(in.batch, tile);
  score(backend, in, tile, options.pooling, scores_);
  const Choice choice{.begin = candidates.begin,
                      .end = candidates.end,
                      .budget = candidates.budget,
                      .unit = options.unit,
                      .mass = options.mass,
                      .least = candidates.least,
                      .causal = key_end};
  for (int32_t g = 0; g < shape_.kv_heads; ++g) {
    selected[g].resize(candidates.budget);
    selected[g].resize(choose_keys(scores_.data() + int64_t{g} * key_end, choice, choice_workspace_,
                                   selected[g].data()));
  }
}

// Keys may be selected by their largest probability, but the mass that they recall is a sum.
void SimilarityRecorder::measure_masses(Backend& backend, const AttentionInput& in, int32_t tile,
                                        const Candidates& candidates) {
  const SelectOptions options = to_select_options(settings_);
  const int32_t key_end = end_of_keys(in.batch, tile);
  if (options.pooling == Pooling::kSum) {
    masses_ = scores_;
  } else {
    const bool one_row = options.pooling == Pooling::kLastRowMax;
    score(backend, in, tile, one_row ? Pooling::kLastRowSum : Pooling::kSum, masses_);
  }
  fixed_.resize(shape_.kv_heads);
  for (int32_t g = 0; g < shape_.kv_heads; ++g) {
    const float* mass = masses_.data() + int64_t{g} * key_end;
    fixed_[g] = std::accumulate(mass, mass + candidates.begin, 0.0) +
                std::accumulate(mass + candidates.end, mass + key_end, 0.0);
  }
}

// Fills `scores` [kv_heads, keys]. If one selection serves all heads, the scores of the heads are
// pooled, too, and every head gets the result.
void SimilarityRecorder::score(Backend& backend, const AttentionInput& in, int32_t tile,
                               Pooling pooling, std::vector<float>& scores) {
  const int32_t keys = end_of_keys(in.batch, tile);
  if (device_scores_.view().cols < keys) {
    device_scores_ = backend.allocate(DType::kF32, shape_.kv_heads, keys);
  }
  const Tensor pooled = device_scores_.view().slice_cols(0, keys);
  backend.pool_scores(in.q, in.cache, in.step, tile, pooling, pooled);
  scores.resize(static_cast<size_t>(shape_.kv_heads) * keys);
  backend.download(pooled, std::as_writable_bytes(std::span(scores)));
  const Tensor view{scores.data(), DType::kF32, shape_.kv_heads, keys, keys};
  if (!settings_.all_heads) return;
  pool_heads(view, pooling);
  for (int32_t g = 1; g < shape_.kv_heads; ++g) std::copy_n(view.f32(0), keys, view.f32(g));
}

// The mass of the keys that every row attends to anyway (sinks and own tile) is added to both sides
// of the quotient. It is that of the *target* head, except with the mistake of the published code.
void SimilarityRecorder::add_masses(int32_t layer, int32_t g_b, const TileSets& sets,
                                    std::span<const float> mass) {
  const double all = std::accumulate(mass.begin(), mass.end(), 0.0);
  const double best = sum_at(sets[layer][g_b], mass.data());
  similarity_.self_recall[layer] += (best + fixed_[g_b]) / all / shape_.kv_heads;
  for (int32_t a = 0; a < layer; ++a) {
    for (int32_t g_a = 0; g_a < shape_.kv_heads; ++g_a) {
      const double held = sum_at(sets[a][g_a], mass.data());
      similarity_.recall(a, layer, g_b, g_a) += (held + fixed_[g_b]) / all;
      if (kind_ == SimilarityKind::kJaccard) continue;
      const double fixed = fixed_[kind_ == SimilarityKind::kRecalledMassWithSlip ? g_a : g_b];
      const double recalled = (held + fixed) / (best + fixed);
      double& worst = similarity_.at(a, layer, g_b, g_a);
      worst = std::min(worst, recalled);
    }
  }
}

void SimilarityRecorder::add_jaccard(int32_t layer, int32_t g_b, const TileSets& sets) {
  for (int32_t a = 0; a < layer; ++a) {
    for (int32_t g_a = 0; g_a < shape_.kv_heads; ++g_a) {
      similarity_.at(a, layer, g_b, g_a) += jaccard(sets[a][g_a], sets[layer][g_b]);
    }
  }
}

void SimilarityRecorder::residual_added(Backend& backend, int32_t layer, const Batch& batch,
                                        TileRange tiles, Tensor before, Tensor after) {
  const int32_t begin = batch.tile_start[tiles.begin];
  const int32_t end = batch.tile_start[tiles.begin + tiles.count];
  const auto rows_of = [&](Tensor stream, std::vector<float>& rows) {
    rows.resize(static_cast<size_t>((end - begin) * stream.cols));
    backend.download(stream.slice_rows(begin, end - begin),
                     std::as_writable_bytes(std::span(rows)));
  };
  rows_of(before, before_);
  rows_of(after, after_);
  for (int32_t row = begin; row < end; ++row) {
    if (batch.positions[row] < until_) continue;
    const int64_t at = (row - begin) * before.cols;
    similarity_.importance[layer] +=
        1.0 - cosine(before_.data() + at, after_.data() + at, before.cols);
    ++importance_tokens_[layer];
  }
  if (layer + 1 == shape_.layers) until_ = std::max(until_, batch.positions[end - 1] + 1);
}

Similarity SimilarityRecorder::window_similarity() const {
  Similarity window = similarity_;
  const double tiles = std::max(1, tiles_);
  for (int32_t b = 0; b < shape_.layers; ++b) {
    window.importance[b] /= static_cast<double>(std::max<int64_t>(1, importance_tokens_[b]));
    window.self_recall[b] /= tiles;
    for (int32_t a = 0; a < b; ++a) {
      for (int32_t g = 0; g < shape_.kv_heads * shape_.kv_heads; ++g) {
        const int32_t g_b = g / shape_.kv_heads, g_a = g % shape_.kv_heads;
        window.recall(a, b, g_b, g_a) /= tiles;
        if (kind_ == SimilarityKind::kJaccard) window.at(a, b, g_b, g_a) /= tiles;
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
        double& recall = mean.recall(a, b, g / heads, g % heads);
        value = recall = 0;
        for (const Similarity& window : windows) {
          value += window.at(a, b, g / heads, g % heads) / count;
          recall += window.recall(a, b, g / heads, g % heads) / count;
        }
      }
    }
  }
  return mean;
}

}  // namespace kascade
