// Tests the trace of a query against a direct computation in float64: the selected keys in order of
// their scores, the keys attended to, the shares of the attention mass, and the maps.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/attention/policy.h"
#include "engine/runtime/batch_builder.h"
#include "engine/trace/trace_recorder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/kernel_cases.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int32_t kTokens = 200;
constexpr AttentionCase kShape{.kv_heads = 2, .group = 2, .dim = 8};
// Sums of float32 probabilities against float64.
constexpr double kClose = 2e-5;

// dense and selecting, anchor, reuse of the anchor, anchor, reuse of layer 0; heads crossed.
std::shared_ptr<Schedule> five_layers(const SelectionSettings& settings) {
  auto schedule = std::make_shared<Schedule>();
  schedule->selection = settings;
  schedule->layers = {{.role = Role::kDense, .anchor = 0, .head_map = {0, 1}},
                      {.role = Role::kAnchor, .anchor = 1, .head_map = {0, 1}},
                      {.role = Role::kReuse, .anchor = 1, .head_map = {1, 0}},
                      {.role = Role::kAnchor, .anchor = 3, .head_map = {0, 1}},
                      {.role = Role::kReuse, .anchor = 0, .head_map = {1, 1}}};
  return schedule;
}

// One text of kTokens rows in layers of independent random queries and keys. run() computes rows
// [begin, end) as the engine does, with a recorder that watches.
class Text {
 public:
  Text(const AttentionChoice& choice, int32_t layers, int32_t prefill_end)
      : policy_(make_policy(choice, layers)), prefill_end_(prefill_end) {
    AttentionCase shape = kShape;
    shape.sequences = {{0, kTokens}};
    for (int32_t layer = 0; layer < layers; ++layer) {
      layers_.push_back(std::make_unique<AttentionData>(shape, DType::kF32, 100 + layer));
    }
  }

  const std::shared_ptr<const AttentionPolicy>& policy() const { return policy_; }

  void run(Backend& backend, int32_t begin, int32_t end, TraceRecorder& recorder) {
    PolicyState state;
    for (int32_t layer = 0; layer < static_cast<int32_t>(layers_.size()); ++layer) {
      const AttentionData& data = *layers_[layer];
      Batch batch;
      batch.block_tables = data.batch.block_tables;
      batch.table_width = data.batch.table_width;
      batch.tile_start = {0};
      for (int32_t row = begin; row < end; ++row) {
        batch.tokens.push_back(0);
        batch.positions.push_back(row);
        batch.slots.push_back(data.batch.slots[row]);
      }
      for_each_tile(*policy_, prefill_end_, begin, end, [&](const TileSpan& tile) {
        const Candidates from = policy_->candidates(tile.first, tile.per_query);
        batch.tile_seq.push_back(0);
        batch.candidate_begin.push_back(from.begin);
        batch.candidate_end.push_back(from.end);
        batch.budget.push_back(from.budget);
        batch.tile_start.push_back(tile.last + 1 - begin);
      });
      const HostBuffer out(DType::kF32, batch.rows(), data.width());
      const auto step = backend.prepare(batch);
      const AttentionInput in{data.q.slice_rows(begin, end - begin),
                              {},
                              data.cache,
                              batch,
                              *step,
                              {0, batch.tiles()},
                              out.view()};
      policy_->attend(backend, layer, in, state);
      recorder.attention_computed(backend, layer, in, policy_->attended_keys(layer, state));
    }
  }

  // The probabilities of one row and query head over all its causal keys.
  std::vector<double> probabilities(int32_t layer, int32_t row, int32_t head) const {
    const AttentionData& data = *layers_[layer];
    const float* q = data.q.f32(row) + int64_t{head} * kShape.dim;
    std::vector<double> p;
    for (int32_t key = 0; key <= row; ++key) {
      const float* k = data.cache.keys.f32(data.cache_row(0, head / kShape.group, key));
      double dot = 0;
      for (int32_t d = 0; d < kShape.dim; ++d) dot += double{q[d]} * k[d];
      p.push_back(dot / std::sqrt(static_cast<double>(kShape.dim)));
    }
    const double largest = *std::ranges::max_element(p);
    double sum = 0;
    for (double& value : p) sum += value = std::exp(value - largest);
    for (double& value : p) value /= sum;
    return p;
  }

  // Of rows [first, last] and the query heads of a KV head: sum or largest for each key ≤ last.
  std::vector<double> pooled(int32_t layer, int32_t first, int32_t last, int32_t kv_head,
                             bool largest = false) const {
    std::vector<double> out(static_cast<size_t>(last) + 1, 0.0);
    for (int32_t row = first; row <= last; ++row) {
      for (int32_t i = 0; i < kShape.group; ++i) {
        const auto p = probabilities(layer, row, kv_head * kShape.group + i);
        for (size_t key = 0; key < p.size(); ++key) {
          out[key] = largest ? std::max(out[key], p[key]) : out[key] + p[key];
        }
      }
    }
    return out;
  }

 private:
  std::shared_ptr<const AttentionPolicy> policy_;
  int32_t prefill_end_;
  std::vector<std::unique_ptr<AttentionData>> layers_;
};

TraceOptions everything(int32_t position, bool row_alone, int32_t layers, int32_t map_tile = 0) {
  TraceOptions options{
      .position = position, .row_alone = row_alone, .kv_heads = {0, 1}, .map_tile = map_tile};
  options.layers.resize(static_cast<size_t>(layers));
  std::iota(options.layers.begin(), options.layers.end(), 0);
  return options;
}

double share(const std::vector<double>& mass, const std::set<int32_t>& keys) {
  double sum = 0;
  for (const int32_t key : keys) sum += mass[key];
  return sum / std::accumulate(mass.begin(), mass.end(), 0.0);
}

// What a selecting layer must select: unit number → score, and the best of them.
struct Selected {
  std::vector<int32_t> first_keys{};  // by falling score
  std::vector<double> scores{};
  std::set<int32_t> keys{};  // with sinks and own tile
};

struct Case {
  std::string name;
  SelectionSettings settings;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }
const Case kCases[] = {
    {"kascade", {.ratio = 0.1, .min_keys = 20}},
    {"sinks", {.ratio = 0.1, .min_keys = 20, .sink_keys = 3}},
    {"largest", {.ratio = 0.2, .min_keys = 5, .pooling = ScorePooling::kMax}},
    {"all_heads", {.ratio = 0.2, .min_keys = 5, .all_heads = true}},
    {"mass", {.min_keys = 5, .mass = 0.5, .max_ratio = 0.8, .sink_keys = 3}},
    {"paper_decode", {.ratio = 0.1, .min_keys = 20, .decode_own_tile = false}},
    {"tile", {.family = Family::kTile, .query_tile = 16, .top_k = 3}},
};

class TraceTest : public ::testing::TestWithParam<std::tuple<Case, bool, std::string>> {
 protected:
  const SelectionSettings& settings() const { return std::get<0>(GetParam()).settings; }
  bool row_alone() const { return std::get<1>(GetParam()); }
  std::unique_ptr<Backend> backend() const {
    if (std::get<2>(GetParam()) == "reference") return make_reference_backend();
    return *open_backend({.name = "cpu", .weights = WeightFormat::kF32});
  }

  // The number of best keys with which the query or tile attends to the share settings().mass.
  size_t keys_for_mass(const std::vector<double>& scores,
                       const std::vector<std::pair<double, int32_t>>& best, int32_t end) const {
    double covered = std::accumulate(scores.begin(), scores.begin() + settings().sink_keys, 0.0) +
                     std::accumulate(scores.begin() + end, scores.end(), 0.0);
    const double wanted = settings().mass * std::accumulate(scores.begin(), scores.end(), 0.0);
    size_t count = 0;
    while (count < static_cast<size_t>(settings().min_keys) || covered < wanted) {
      covered -= best[count++].first;
    }
    EXPECT_LE(count, static_cast<size_t>(settings().max_ratio * end));
    return count;
  }

  // Plain loops over the definitions of docs/method.md.
  Selected expected(const Text& text, int32_t layer, int32_t kv_head, int32_t first,
                    int32_t last) const {
    const SelectionSettings& s = settings();
    const bool tile = s.family == Family::kTile;
    const bool largest = tile || s.pooling == ScorePooling::kMax;
    std::vector<double> scores = text.pooled(layer, tile ? last : first, last, kv_head, largest);
    if (s.all_heads) {
      const auto other = text.pooled(layer, first, last, 1 - kv_head, largest);
      for (size_t key = 0; key < scores.size(); ++key) scores[key] += other[key];
    }
    const int32_t end =
        row_alone() && !s.decode_own_tile ? first + 1 : first / s.query_tile * s.query_tile;
    const int32_t unit = tile ? s.query_tile : 1;
    const int32_t wanted =
        tile ? s.top_k : std::max(s.min_keys, static_cast<int32_t>(s.ratio * end));
    std::vector<std::pair<double, int32_t>> units;
    for (int32_t key = s.sink_keys; key < end; key += unit) {
      units.emplace_back(-*std::max_element(&scores[key], &scores[key] + unit), key);
    }
    std::ranges::sort(units);
    units.resize(s.mass > 0 ? keys_for_mass(scores, units, end)
                            : std::min<size_t>(units.size(), wanted));
    Selected out;
    for (const auto& [negative, key] : units) {
      out.first_keys.push_back(key);
      out.scores.push_back(-negative);
      for (int32_t i = 0; i < unit; ++i) out.keys.insert(key + i);
    }
    for (int32_t key = 0; key < s.sink_keys; ++key) out.keys.insert(key);
    for (int32_t key = end; key <= last; ++key) out.keys.insert(key);
    return out;
  }
};

TEST_P(TraceTest, AgreesWithFloat64) {
  constexpr int32_t kLayers = 5, kPosition = 187;
  const auto schedule = five_layers(settings());
  const int32_t tile = settings().query_tile;
  const int32_t first = row_alone() ? kPosition : kPosition / tile * tile;
  const int32_t last = row_alone() ? kPosition : std::min(first + tile, kTokens) - 1;
  Text text(ScheduledAttention{.schedule = schedule}, kLayers, row_alone() ? kPosition : kTokens);
  TraceRecorder recorder(everything(kPosition, row_alone(), kLayers), text.policy());
  const auto backend = this->backend();
  text.run(*backend, 0, 96, recorder);
  text.run(*backend, 96, last + 1, recorder);
  const Trace trace = recorder.take();

  const bool tiles = settings().family == Family::kTile;
  const LayerKind kinds[] = {LayerKind::kDense, LayerKind::kSelecting, LayerKind::kReusing,
                             LayerKind::kSelecting, LayerKind::kReusing};
  ASSERT_EQ(trace.layers.size(), size_t{kLayers});
  EXPECT_THAT(trace.maps, IsEmpty());
  for (int32_t l = 0; l < kLayers; ++l) {
    const LayerTrace& layer = trace.layers[l];
    SCOPED_TRACE(l);
    EXPECT_EQ(layer.layer, l);
    EXPECT_EQ(layer.kind, kinds[l]);
    EXPECT_EQ(layer.source, schedule->layers[l].anchor);
    // In the tile family an anchor that no layer reuses selects nothing.
    EXPECT_EQ(layer.selects, l == 0 || l == 1 || (l == 3 && !tiles));
    EXPECT_EQ(layer.causal_keys, last + 1);
    ASSERT_EQ(layer.heads.size(), 2u);
    for (int32_t g = 0; g < 2; ++g) {
      const HeadTrace& head = layer.heads[g];
      const auto mass = text.pooled(l, first, last, g);
      const int32_t source_head = schedule->layers[l].head_map[g];
      EXPECT_EQ(head.kv_head, g);
      EXPECT_EQ(head.source_head, source_head);
      const Selected source = expected(text, layer.source, source_head, first, last);
      const bool dense = l == 0 || (tiles && layer.kind == LayerKind::kSelecting);
      EXPECT_EQ(head.attended_keys, dense ? last + 1 : static_cast<int32_t>(source.keys.size()));
      EXPECT_NEAR(head.attended_mass, dense ? 1.0 : share(mass, source.keys), kClose);
      EXPECT_FALSE(head.takes_all);
      if (!layer.selects) {
        EXPECT_THAT(head.selected, IsEmpty());
        continue;
      }
      EXPECT_EQ(head.selected, source.first_keys) << "in order of score";
      ASSERT_EQ(head.scores.size(), source.scores.size());
      for (size_t i = 0; i < head.scores.size(); ++i) {
        EXPECT_NEAR(head.scores[i], source.scores[i], kClose);
      }
      EXPECT_NEAR(head.selected_mass, share(mass, source.keys), kClose);
      EXPECT_GT(head.selected_mass, 0.05);
      EXPECT_LT(head.selected_mass, 0.999);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, TraceTest,
                         ::testing::Combine(::testing::ValuesIn(kCases), ::testing::Bool(),
                                            ::testing::Values("reference", "cpu")),
                         [](const auto& test) {
                           return std::get<0>(test.param).name +
                                  (std::get<1>(test.param) ? "_row_" : "_tile_") +
                                  std::get<2>(test.param);
                         });

TEST(TraceOfAllKeys, RecallsEverything) {
  for (const bool row_alone : {false, true}) {
    Text text(ScheduledAttention{.schedule = five_layers({.ratio = 1.0})}, 5,
              row_alone ? kTokens - 1 : kTokens);
    TraceRecorder recorder(everything(kTokens - 1, row_alone, 5), text.policy());
    const auto backend = make_reference_backend();
    text.run(*backend, 0, kTokens, recorder);
    for (const LayerTrace& layer : recorder.take().layers) {
      for (const HeadTrace& head : layer.heads) {
        EXPECT_EQ(head.attended_keys, kTokens);
        EXPECT_DOUBLE_EQ(head.attended_mass, 1.0);
        if (!layer.selects) continue;
        EXPECT_TRUE(head.takes_all);
        EXPECT_DOUBLE_EQ(head.selected_mass, 1.0);
        EXPECT_EQ(head.selected.size(), kTokens / 32 * 32u);
        EXPECT_TRUE(std::ranges::is_sorted(head.scores, std::greater<>()));
      }
    }
  }
}

// ---- Maps

TEST(TraceMaps, CoverTheTextOnceHoweverItIsCut) {
  constexpr int32_t kTile = 32;
  const SelectionSettings settings{.ratio = 0.1, .min_keys = 20};
  const auto backend = make_reference_backend();
  std::vector<Trace> traces;
  // Whole, in chunks, and computed again from the start, as after a preemption.
  for (const auto& ends : {std::vector{kTokens}, {64, 96, kTokens}, {96, -1, 64, kTokens}}) {
    Text text(ScheduledAttention{.schedule = five_layers(settings)}, 5, kTokens);
    TraceRecorder recorder(everything(kTokens - 1, false, 5, kTile), text.policy());
    int32_t begin = 0;
    for (const int32_t end : ends) {
      if (end > begin) text.run(*backend, begin, end, recorder);
      begin = std::max(end, 0);
    }
    traces.push_back(recorder.take());
  }
  const Text text(ScheduledAttention{.schedule = five_layers(settings)}, 5, kTokens);
  ASSERT_EQ(traces[0].maps.size(), 10u);
  for (size_t m = 0; m < 10; ++m) {
    const TraceMap& map = traces[0].maps[m];
    EXPECT_EQ(map.layer, static_cast<int32_t>(m / 2));
    EXPECT_EQ(map.kv_head, static_cast<int32_t>(m % 2));
    ASSERT_EQ(map.rows.size(), 7u);
    for (int32_t row = 0; row < 7; ++row) {
      const TraceMapRow& cells = map.rows[row];
      ASSERT_EQ(cells.mass.size(), row + 1u);
      const int32_t first = row * kTile, last = std::min(first + kTile, kTokens) - 1;
      const auto mass = text.pooled(map.layer, first, last, map.kv_head);
      const double all = std::accumulate(mass.begin(), mass.end(), 0.0);
      for (int32_t cell = 0; cell <= row; ++cell) {
        const int32_t end = std::min((cell + 1) * kTile, last + 1);
        const double expected =
            std::accumulate(mass.begin() + cell * kTile, mass.begin() + end, 0.0) / all;
        EXPECT_NEAR(cells.mass[cell], expected, kClose);
        EXPECT_LE(cells.attended_mass[cell], cells.mass[cell] + 1e-7);
        EXPECT_LE(cells.attended_keys[cell], end - cell * kTile);
        if (map.layer == 0 || cell == row) {
          EXPECT_EQ(cells.attended_keys[cell], end - cell * kTile);
          EXPECT_EQ(cells.attended_mass[cell], cells.mass[cell]);
        }
      }
      const int32_t attended =
          std::accumulate(cells.attended_keys.begin(), cells.attended_keys.end(), 0);
      const Candidates from = text.policy()->candidates(first, false);
      EXPECT_EQ(attended, map.layer == 0 ? last + 1 : from.budget + last + 1 - first);
      for (const size_t other : {1u, 2u}) {
        const TraceMapRow& again = traces[other].maps[m].rows[row];
        EXPECT_EQ(again.mass, cells.mass);
        EXPECT_EQ(again.attended_mass, cells.attended_mass);
        EXPECT_EQ(again.attended_keys, cells.attended_keys);
      }
    }
  }
}

// A window has query tiles of one position: rows of the map join them.
TEST(TraceMaps, JoinSmallQueryTiles) {
  BaselineAttention window = BaselineAttention::defaults(BaselineKind::kWindow);
  window.window = 20;
  Text text(window, 2, kTokens);
  TraceRecorder recorder(everything(kTokens - 1, true, 2, 16), text.policy());
  const auto backend = make_reference_backend();
  text.run(*backend, 0, 100, recorder);
  text.run(*backend, 100, kTokens, recorder);
  const Trace trace = recorder.take();
  const LayerTrace& layer = trace.layers[1];
  EXPECT_EQ(layer.kind, LayerKind::kWindow);
  EXPECT_FALSE(layer.selects);
  EXPECT_EQ(layer.heads[0].attended_keys, 20);
  const auto mass = text.pooled(1, kTokens - 1, kTokens - 1, 0);
  EXPECT_NEAR(layer.heads[0].attended_mass,
              std::accumulate(mass.end() - 20, mass.end(), 0.0) / kShape.group, kClose);
  ASSERT_EQ(trace.maps[0].rows.size(), 13u);
  // Row 5 holds the positions 80 to 95; the first of them reaches back to 61, the last to 76.
  EXPECT_THAT(trace.maps[0].rows[5].attended_keys, ElementsAre(0, 0, 0, 3, 16, 16));
  const auto& shares = trace.maps[0].rows[5].mass;
  EXPECT_NEAR(std::accumulate(shares.begin(), shares.end(), 0.0), 1.0, 1e-5);
}

TEST(TraceOptionsOf, LeaveOutLayersAndHeads) {
  Text text(ScheduledAttention{.schedule = five_layers({.min_keys = 20})}, 5, kTokens);
  TraceRecorder recorder({.position = 150, .layers = {1, 4}, .kv_heads = {1}, .map_tile = 32},
                         text.policy());
  const auto backend = make_reference_backend();
  text.run(*backend, 0, 160, recorder);
  const Trace trace = recorder.take();
  ASSERT_EQ(trace.layers.size(), 2u);
  EXPECT_EQ(trace.layers[1].layer, 4);
  ASSERT_EQ(trace.layers[1].heads.size(), 1u);
  EXPECT_EQ(trace.layers[1].heads[0].kv_head, 1);
  ASSERT_EQ(trace.maps.size(), 2u);
  EXPECT_EQ(trace.maps[0].layer, 1);
}

// ---- Through the engine

TEST(TraceInTheEngine, SeesTheSameInAnyCompanyAndCut) {
  const TempDir dir;
  write_tiny_model({.layers = 4, .context = 768, .peaked = true}, dir.path());
  std::vector<Trace> traces;
  for (const int32_t batch_tokens : {264, 2048}) {
    EngineOptions options;
    options.model_directory = dir.path();
    options.backend = "far_memory";
    options.max_sequences = 8;
    options.max_batch_tokens = batch_tokens;
    const auto engine = make_engine(options);
    const auto schedule = make_schedule(*engine, {1, 2}, {.ratio = 0.1, .min_keys = 16});
    const ScheduledAttention attention{.schedule = schedule};
    const auto policy = make_policy(attention, 4);
    const auto recorder = std::make_shared<TraceRecorder>(everything(600, true, 4, 32), policy);
    // Sequences of the same policy stand before and behind it in the attention group.
    Request other{.tokens = random_tokens(300, 256, 1), .task = Score{}, .attention = attention};
    std::vector<PendingReply> pending(3);
    ASSERT_TRUE(engine->submit(other, pending[0].sink()).ok());
    Request request{.tokens = random_tokens(602, 256, 2),
                    .task = Observe{.observer = recorder, .per_query_from = 600},
                    .attention = attention};
    ASSERT_TRUE(engine->submit(request, pending[1].sink()).ok());
    ASSERT_TRUE(engine->submit(other, pending[2].sink()).ok());
    for (PendingReply& reply : pending) EXPECT_TRUE(reply.wait().finish.status.ok());
    const AttentionCounts counts = pending[1].wait().finish.counts.at(0);
    EXPECT_EQ(counts.positions, 601);
    EXPECT_LT(counts.attended, counts.causal);
    traces.push_back(recorder->take());
  }
  ASSERT_EQ(traces[0].layers.size(), 4u);
  for (size_t l = 0; l < 4; ++l) {
    for (size_t g = 0; g < 2; ++g) {
      const HeadTrace& a = traces[0].layers[l].heads[g];
      const HeadTrace& b = traces[1].layers[l].heads[g];
      EXPECT_EQ(a.selected, b.selected);
      EXPECT_EQ(a.scores, b.scores);
      EXPECT_EQ(a.attended_mass, b.attended_mass);
      // Position 600 is in the tile that begins at 576.
      EXPECT_EQ(a.attended_keys, l == 0 ? 601 : 57 + 25);
    }
  }
  for (size_t m = 0; m < traces[0].maps.size(); ++m) {
    EXPECT_EQ(traces[0].maps[m].rows.size(), 19u);
    EXPECT_EQ(traces[0].maps[m].rows[18].mass, traces[1].maps[m].rows[18].mass);
  }
}

}  // namespace
}  // namespace kascade::testing
