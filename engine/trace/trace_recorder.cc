#include "engine/trace/trace_recorder.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>

#include "engine/backend/host/select.h"

namespace kascade {
namespace {

double sum_of(std::span<const float> mass) {
  return std::accumulate(mass.begin(), mass.end(), 0.0);
}

// The share of the mass that lies on the marked keys.
double share_of(std::span<const float> mass, const std::vector<bool>& marked) {
  double sum = 0;
  for (size_t key = 0; key < mass.size(); ++key) sum += marked[key] ? mass[key] : 0.0;
  const double all = sum_of(mass);
  return all > 0 ? std::min(sum / all, 1.0) : 0.0;
}

// The largest score of a unit. As in select_keys(), NaN ranks lowest.
float score_of_unit(std::span<const float> scores, int32_t first, int32_t unit) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int32_t key = first; key < first + unit; ++key) largest = std::fmax(largest, scores[key]);
  return largest;
}

void divide(std::vector<float>& values, double by) {
  for (float& value : values) value = by > 0 ? static_cast<float>(value / by) : 0.0f;
}

}  // namespace

TraceRecorder::TraceRecorder(TraceOptions options, std::shared_ptr<const AttentionPolicy> policy)
    : options_(std::move(options)), policy_(std::move(policy)) {
  for (const int32_t layer : options_.layers) {
    trace_.layers.push_back({.layer = layer, .kind = policy_->layer_kind(layer)});
    if (options_.map_tile == 0) continue;
    for (const int32_t head : options_.kv_heads) trace_.maps.push_back({layer, head, {}});
  }
}

void TraceRecorder::attention_computed(Backend& backend, int32_t layer, const AttentionInput& in,
                                       const AttendedKeys& keys) {
  const auto found = std::ranges::lower_bound(options_.layers, layer);
  if (found == options_.layers.end() || *found != layer) return;
  const auto place = static_cast<size_t>(found - options_.layers.begin());
  int32_t end = 0;
  for (int32_t index = in.tiles.begin; index < in.tiles.begin + in.tiles.count; ++index) {
    const Tile tile{backend,
                    in,
                    keys,
                    index,
                    in.batch.positions[in.batch.tile_start[index]],
                    in.batch.positions[in.batch.tile_start[index + 1] - 1]};
    end = tile.key_count();
    const int32_t position = options_.position;
    if (tile.first_position <= position && position <= tile.last_position) {
      record_query(tile, trace_.layers[place]);
    }
    if (options_.map_tile > 0 && tile.first_position >= mapped_until_) {
      record_maps(tile, place * options_.kv_heads.size());
    }
  }
  if (layer == options_.layers.back()) mapped_until_ = std::max(mapped_until_, end);
}

void TraceRecorder::record_query(const Tile& tile, LayerTrace& out) {
  const AttendedKeys& keys = tile.keys;
  out.source = keys.source;
  out.selects = keys.selected != nullptr;
  out.causal_keys = tile.key_count();
  out.heads.assign(options_.kv_heads.size(), {});
  score(tile, options_.row_alone ? Pooling::kLastRowSum : Pooling::kSum);
  for (size_t i = 0; i < out.heads.size(); ++i) {
    const int32_t g = options_.kv_heads[i];
    const int32_t source = keys.keys.head_map.empty() ? g : keys.keys.head_map[g];
    HeadTrace& head = out.heads[i] = {.kv_head = g, .source_head = source};
    mark(tile, keys.keys.selection, source);
    head.attended_keys = static_cast<int32_t>(std::ranges::count(attended_, true));
    head.attended_mass = share_of(scores_of(tile, g), attended_);
    if (!out.selects) continue;
    mark(tile, keys.selected, g);
    head.selected_mass = share_of(scores_of(tile, g), attended_);
  }
  record_selection(tile, out);
}

void TraceRecorder::record_selection(const Tile& tile, LayerTrace& out) {
  const AttendedKeys& keys = tile.keys;
  if (keys.selected == nullptr) return;
  const SelectOptions& options = keys.options;
  const bool ranked = keys.ranked_by_scores;
  const Batch& batch = tile.in.batch;
  const bool takes_all = least_keys(options, batch.budget[tile.index]) ==
                         batch.candidate_end[tile.index] - batch.candidate_begin[tile.index];
  if (ranked) score(tile, options.pooling);
  if (ranked && options.all_heads) {
    const int64_t heads = tile.in.cache.kv_heads, count = tile.key_count();
    pool_heads({scores_.data(), DType::kF32, heads, count, count}, options.pooling);
  }
  for (HeadTrace& head : out.heads) {
    head.takes_all = takes_all;
    const std::vector<int32_t> chosen =
        keys.selected->read(tile.index - keys.first_tile, head.kv_head);
    for (size_t i = 0; i < chosen.size(); i += static_cast<size_t>(options.unit)) {
      head.selected.push_back(chosen[i]);
    }
    if (!ranked) continue;
    const auto scores = scores_of(tile, options.all_heads ? 0 : head.kv_head);
    const auto score_at = [&](int32_t key) { return score_of_unit(scores, key, options.unit); };
    std::ranges::stable_sort(head.selected, std::greater<>(), score_at);
    std::ranges::transform(head.selected, std::back_inserter(head.scores), score_at);
  }
}

void TraceRecorder::record_maps(const Tile& tile, size_t first_map) {
  const auto row = static_cast<size_t>(tile.first_position / options_.map_tile);
  score(tile, Pooling::kSum);
  for (size_t i = 0; i < options_.kv_heads.size(); ++i) {
    std::vector<TraceMapRow>& rows = trace_.maps[first_map + i].rows;
    while (rows.size() <= row) {
      const size_t cells = rows.size() + 1;
      rows.push_back(
          {std::vector<float>(cells), std::vector<float>(cells), std::vector<uint8_t>(cells)});
    }
    add_to_row(tile, options_.kv_heads[i], rows[row]);
  }
}

void TraceRecorder::add_to_row(const Tile& tile, int32_t kv_head, TraceMapRow& row) {
  const auto& head_map = tile.keys.keys.head_map;
  mark(tile, tile.keys.keys.selection, head_map.empty() ? kv_head : head_map[kv_head]);
  const std::span<const float> mass = scores_of(tile, kv_head);
  const int32_t cell_keys = options_.map_tile;
  for (size_t cell = 0; cell < row.mass.size(); ++cell) {
    const int32_t first = static_cast<int32_t>(cell) * cell_keys;
    const int32_t end = std::min(first + cell_keys, tile.key_count());
    double all = 0, attended = 0;
    int32_t count = 0;
    for (int32_t key = first; key < end; ++key) {
      all += mass[key];
      attended += attended_[key] ? mass[key] : 0.0;
      count += attended_[key] ? 1 : 0;
    }
    row.mass[cell] += static_cast<float>(all);
    row.attended_mass[cell] += static_cast<float>(attended);
    row.attended_keys[cell] = std::max(row.attended_keys[cell], static_cast<uint8_t>(count));
  }
}

void TraceRecorder::score(const Tile& tile, Pooling pooling) {
  const int64_t heads = tile.in.cache.kv_heads, keys = tile.key_count();
  if (device_scores_.view().cols < keys) {
    device_scores_ = tile.backend.allocate(DType::kF32, heads, keys);
  }
  const Tensor pooled = device_scores_.view().slice_cols(0, keys);
  tile.backend.pool_scores(tile.in.q, tile.in.cache, tile.in.step, tile.index, pooling, pooled);
  scores_.resize(static_cast<size_t>(heads * keys));
  tile.backend.download(pooled, std::as_writable_bytes(std::span(scores_)));
}

void TraceRecorder::mark(const Tile& tile, const Selection* selection, int32_t kv_head) {
  attended_.assign(static_cast<size_t>(tile.key_count()), selection == nullptr);
  if (selection == nullptr) return;
  const Batch& batch = tile.in.batch;
  std::fill_n(attended_.begin(), batch.candidate_begin[tile.index], true);
  std::fill(attended_.begin() + batch.candidate_end[tile.index], attended_.end(), true);
  for (const int32_t key : selection->read(tile.index - tile.keys.first_tile, kv_head)) {
    attended_[static_cast<size_t>(key)] = true;
  }
}

Trace TraceRecorder::take() {
  for (TraceMap& map : trace_.maps) {
    for (TraceMapRow& row : map.rows) {
      const double all = sum_of(row.mass);
      divide(row.mass, all);
      divide(row.attended_mass, all);
    }
  }
  return std::exchange(trace_, {});
}

}  // namespace kascade
