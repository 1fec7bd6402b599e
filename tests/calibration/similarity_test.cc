// Tests the measurements of calibration on hand-made queries and keys of two layers, against direct
// formulas in double precision (docs/method.md). The results must differ from those of the
// published code, which broadcasts one tensor wrongly.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/cache/kv_cache.h"
#include "engine/calibration/similarity_recorder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

constexpr int32_t kLayers = 3;
constexpr int32_t kHeads = 4;
constexpr int32_t kKvHeads = 2;
constexpr int32_t kGroup = kHeads / kKvHeads;
constexpr int32_t kDim = 8;
constexpr int32_t kTile = 16;
constexpr int32_t kTokens = 8 * kTile;
constexpr SelectionSettings kKeys{
    .family = Family::kKascade, .query_tile = kTile, .ratio = 0.1, .min_keys = 6};
constexpr SelectionSettings kLargest{.family = Family::kKascade,
                                     .query_tile = kTile,
                                     .ratio = 0.1,
                                     .min_keys = 6,
                                     .pooling = ScorePooling::kMax};
constexpr SelectionSettings kAllHeads{.family = Family::kKascade,
                                      .query_tile = kTile,
                                      .ratio = 0.1,
                                      .min_keys = 6,
                                      .sink_keys = 2,
                                      .all_heads = true};
// Budgets that follow the attention, for which a source may have more keys than its target.
constexpr SelectionSettings kMass{
    .query_tile = kTile, .min_keys = 6, .mass = 0.7, .max_ratio = 0.8, .sink_keys = 2};
constexpr SelectionSettings kTiles{.family = Family::kTile, .query_tile = kTile, .top_k = 2};

// Queries [tokens, heads · dim] and keys [tokens, kv_heads · dim] of each layer.
struct Window {
  std::vector<std::vector<float>> q, k;

  explicit Window(uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      std::vector<float> queries(kTokens * kHeads * kDim), keys(kTokens * kKvHeads * kDim);
      for (float& value : queries) value = 2 * normal(random);
      for (float& value : keys) value = normal(random);
      // One KV head with much local mass: where the slip shows.
      for (int32_t t = 0; t < kTokens; ++t) {
        for (int32_t d = 0; d < kDim; ++d) keys[t * kKvHeads * kDim + d] *= 0.2f + 0.02f * t;
      }
      q.push_back(queries);
      k.push_back(keys);
    }
  }
};

// P[t][j] of one query head by its definition.
std::vector<std::vector<double>> probabilities(const Window& window, int32_t layer, int32_t head) {
  const int32_t g = head / kGroup;
  std::vector<std::vector<double>> rows(kTokens, std::vector<double>(kTokens, 0));
  for (int32_t t = 0; t < kTokens; ++t) {
    double sum = 0;
    for (int32_t j = 0; j <= t; ++j) {
      double dot = 0;
      for (int32_t d = 0; d < kDim; ++d) {
        dot += double{window.q[layer][(t * kHeads + head) * kDim + d]} *
               window.k[layer][(j * kKvHeads + g) * kDim + d];
      }
      sum += rows[t][j] = std::exp(dot / std::sqrt(double{kDim}));
    }
    for (double& p : rows[t]) p /= sum;
  }
  return rows;
}

// Per layer, tile and KV head: scores for the choice, and masses for the recall.
struct Oracle {
  std::vector<std::vector<std::vector<std::vector<double>>>> scores,
      masses;  // [layer][tile][g][key]

  Oracle(const Window& window, const SelectionSettings& settings) {
    const bool single_keys = settings.family == Family::kKascade;
    const bool largest = !single_keys || settings.pooling == ScorePooling::kMax;
    scores.assign(kLayers, {});
    masses.assign(kLayers, {});
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      std::vector<std::vector<std::vector<double>>> p;
      for (int32_t head = 0; head < kHeads; ++head) p.push_back(probabilities(window, layer, head));
      for (int32_t tile = 0; tile < kTokens / kTile; ++tile) {
        std::vector<std::vector<double>> score(kKvHeads, std::vector<double>(kTokens, 0));
        std::vector<std::vector<double>> mass = score;
        for (int32_t head = 0; head < kHeads; ++head) {
          for (int32_t t = tile * kTile; t < (tile + 1) * kTile; ++t) {
            if (!single_keys && t != (tile + 1) * kTile - 1) continue;
            for (int32_t j = 0; j <= t; ++j) {
              const double value = p[head][t][j];
              double& pooled = score[settings.all_heads ? 0 : head / kGroup][j];
              pooled = largest ? std::max(pooled, value) : pooled + value;
              mass[settings.all_heads ? 0 : head / kGroup][j] += value;
            }
          }
        }
        if (settings.all_heads) {
          score.assign(kKvHeads, score[0]);
          mass.assign(kKvHeads, mass[0]);
        }
        scores[layer].push_back(score);
        masses[layer].push_back(mass);
      }
    }
  }

  // `keys` are the candidates by descending score.
  int32_t keys_for_mass(const SelectionSettings& settings, int32_t layer, int32_t tile, int32_t g,
                        const std::vector<int32_t>& keys) const {
    const Candidates candidates = candidates_of(settings, tile * kTile, false);
    const auto& row = scores[layer][tile][g];
    double covered = std::accumulate(row.begin(), row.begin() + candidates.begin, 0.0) +
                     std::accumulate(row.begin() + candidates.end, row.end(), 0.0);
    const double wanted = settings.mass * std::accumulate(row.begin(), row.end(), 0.0);
    int32_t count = 0;
    while (count < candidates.budget && (count < candidates.least || covered < wanted)) {
      covered += row[keys[count++]];
    }
    return count;
  }

  std::vector<int32_t> chosen(const SelectionSettings& settings, int32_t layer, int32_t tile,
                              int32_t g) const {
    const Candidates candidates = candidates_of(settings, tile * kTile, false);
    const int32_t unit = settings.family == Family::kKascade ? 1 : kTile;
    std::vector<int32_t> units(candidates.count() / unit);
    std::iota(units.begin(), units.end(), candidates.begin / unit);
    const auto value = [&](int32_t u) {
      const auto& row = scores[layer][tile][g];
      return *std::max_element(row.begin() + u * unit, row.begin() + (u + 1) * unit);
    };
    std::ranges::stable_sort(units, [&](int32_t a, int32_t b) { return value(a) > value(b); });
    const int32_t wanted = settings.mass > 0 ? keys_for_mass(settings, layer, tile, g, units)
                                             : candidates.budget / unit;
    units.resize(wanted);
    std::vector<int32_t> keys;
    for (const int32_t u : units) {
      for (int32_t i = 0; i < unit; ++i) keys.push_back(u * unit + i);
    }
    std::ranges::sort(keys);
    return keys;
  }

  // slip: the own-tile mass of the source's head number instead of the target's.
  double recalled(const SelectionSettings& settings, int32_t a, int32_t b, int32_t g_b, int32_t g_a,
                  bool slip) const {
    double worst = 1;
    for (const int32_t start : sampled_tiles(settings, kTokens)) {
      const int32_t tile = start / kTile;
      const auto sum = [&](int32_t layer, int32_t g) {
        double total = 0;
        for (const int32_t key : chosen(settings, layer, tile, g))
          total += masses[b][tile][g_b][key];
        return total;
      };
      const auto& local = masses[b][tile][slip ? g_a : g_b];
      const double own = std::accumulate(local.begin() + start, local.end(), 0.0) +
                         std::accumulate(local.begin(), local.begin() + settings.sink_keys, 0.0);
      worst = std::min(worst, (sum(a, g_a) + own) / (sum(b, g_b) + own));
    }
    return worst;
  }

  double jaccard(const SelectionSettings& settings, int32_t a, int32_t b, int32_t g_b,
                 int32_t g_a) const {
    double total = 0;
    const std::set<int32_t> samples = sampled_tiles(settings, kTokens);
    for (const int32_t start : samples) {
      const auto x = chosen(settings, a, start / kTile, g_a);
      const auto y = chosen(settings, b, start / kTile, g_b);
      std::vector<int32_t> both;
      std::ranges::set_intersection(x, y, std::back_inserter(both));
      total +=
          static_cast<double>(both.size()) / static_cast<double>(x.size() + y.size() - both.size());
    }
    return total / static_cast<double>(samples.size());
  }
};

// Feeds the window through the recorder in chunks of `chunk` tiles, layer by layer, as a step does.
Similarity record(const Window& window, const SelectionSettings& settings, SimilarityKind kind,
                  int32_t chunk, bool repeat_first_chunk = false) {
  const auto backend = make_reference_backend();
  const KvCache cache({kLayers, kKvHeads, kDim, kTokens / 16, 16, DType::kF32}, *backend);
  SimilarityRecorder recorder(settings, kind, {kLayers, kKvHeads, kGroup}, kTokens);
  const auto feed = [&](int32_t first_tile, int32_t tiles) {
    Batch batch;
    batch.table_width = kTokens / 16;
    for (int32_t block = 0; block < batch.table_width; ++block) batch.block_tables.push_back(block);
    batch.tile_start.push_back(0);
    for (int32_t tile = first_tile; tile < first_tile + tiles; ++tile) {
      const Candidates candidates = candidates_of(settings, tile * kTile, false);
      batch.tile_seq.push_back(0);
      batch.candidate_begin.push_back(candidates.begin);
      batch.candidate_end.push_back(candidates.end);
      batch.budget.push_back(candidates.budget);
      for (int32_t t = tile * kTile; t < (tile + 1) * kTile; ++t) {
        batch.tokens.push_back(0);
        batch.positions.push_back(t);
        batch.slots.push_back(t);
      }
      batch.tile_start.push_back(batch.rows());
    }
    const int32_t rows = batch.rows();
    const auto step = backend->prepare(batch);
    HostBuffer out(DType::kF32, rows, kHeads * kDim);
    HostBuffer after(DType::kF32, rows, 4);
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      auto* q = const_cast<float*>(window.q[layer].data()) + first_tile * kTile * kHeads * kDim;
      auto* k = const_cast<float*>(window.k[layer].data()) + first_tile * kTile * kKvHeads * kDim;
      const Tensor keys{k, DType::kF32, rows, kKvHeads * kDim, kKvHeads * kDim};
      const TileRange all{0, tiles};
      backend->write_kv(keys, keys, *step, cache.layer(layer));
      recorder.attention_computed(*backend, layer,
                                  {{q, DType::kF32, rows, kHeads * kDim, kHeads * kDim},
                                   {},
                                   cache.layer(layer),
                                   batch,
                                   *step,
                                   all,
                                   out.view()},
                                  {.source = layer});
      // x = (1, 0, 0, 0), y = x + (0, 1, 0, 0): cosine 1/√2 everywhere.
      HostBuffer before(DType::kF32, rows, 4);
      for (int32_t row = 0; row < rows; ++row) {
        std::fill_n(before.view().f32(row), 4, 0.0f);
        std::fill_n(after.view().f32(row), 4, 0.0f);
        before.view().f32(row)[0] = after.view().f32(row)[0] = after.view().f32(row)[1] = 1;
      }
      recorder.residual_added(*backend, layer, batch, all, before.view(), after.view());
    }
  };
  if (repeat_first_chunk) feed(0, chunk);
  for (int32_t tile = 0; tile < kTokens / kTile; tile += chunk) feed(tile, chunk);
  return recorder.window_similarity();
}

TEST(SimilarityTest, RecalledMassByDefinition) {
  const Window window(3);
  for (const SelectionSettings& settings : {kKeys, kTiles, kLargest, kAllHeads, kMass}) {
    const Oracle oracle(window, settings);
    const Similarity measured = record(window, settings, SimilarityKind::kRecalledMass, 2);
    const Similarity with_slip = record(window, settings, SimilarityKind::kRecalledMassWithSlip, 2);
    double slip_shows = 0;
    for (int32_t b = 1; b < kLayers; ++b) {
      for (int32_t a = 0; a < b; ++a) {
        for (int32_t g = 0; g < kKvHeads * kKvHeads; ++g) {
          const int32_t g_b = g / kKvHeads, g_a = g % kKvHeads;
          const double expected = oracle.recalled(settings, a, b, g_b, g_a, /*slip=*/false);
          EXPECT_NEAR(measured.at(a, b, g_b, g_a), expected, 1e-5);
          const double slipped = oracle.recalled(settings, a, b, g_b, g_a, /*slip=*/true);
          EXPECT_NEAR(with_slip.at(a, b, g_b, g_a), slipped, 1e-5);
          slip_shows = std::max(slip_shows, std::abs(slipped - measured.at(a, b, g_b, g_a)));
        }
      }
    }
    if (settings.all_heads) continue;  // one head, none to mistake for another
    EXPECT_GT(slip_shows, 0.01) << "the published broadcast slip must give other values";
  }
}

TEST(SimilarityTest, JaccardByDefinition) {
  const Window window(4);
  for (const SelectionSettings& settings : {kKeys, kTiles, kLargest, kAllHeads, kMass}) {
    const Oracle oracle(window, settings);
    const Similarity measured = record(window, settings, SimilarityKind::kJaccard, 4);
    for (int32_t b = 1; b < kLayers; ++b) {
      for (int32_t a = 0; a < b; ++a) {
        for (int32_t g = 0; g < kKvHeads * kKvHeads; ++g) {
          EXPECT_NEAR(measured.at(a, b, g / kKvHeads, g % kKvHeads),
                      oracle.jaccard(settings, a, b, g / kKvHeads, g % kKvHeads), 1e-12);
        }
      }
    }
  }
}

TEST(SimilarityTest, ChunksAndRecomputationChangeNothing) {
  const Window window(5);
  for (const SimilarityKind kind : {SimilarityKind::kRecalledMass, SimilarityKind::kJaccard}) {
    const Similarity whole = record(window, kKeys, kind, 8);
    for (const Similarity& other :
         {record(window, kKeys, kind, 1), record(window, kKeys, kind, 2, true)}) {
      for (int32_t g = 0; g < kKvHeads * kKvHeads; ++g) {
        EXPECT_DOUBLE_EQ(whole.at(0, 2, g / kKvHeads, g % kKvHeads),
                         other.at(0, 2, g / kKvHeads, g % kKvHeads));
      }
      EXPECT_NEAR(whole.importance[1], other.importance[1], 1e-12);
      EXPECT_NEAR(whole.self_recall[1], other.self_recall[1], 1e-12);
    }
  }
}

TEST(SimilarityTest, ImportanceIsOneMinusCosine) {
  const Similarity measured = record(Window(6), kKeys, SimilarityKind::kRecalledMass, 8);
  for (const double importance : measured.importance) {
    EXPECT_NEAR(importance, 1 - 1 / std::sqrt(2.0), 1e-12);
  }
}

// Layer 2 is layer 0 with its KV heads exchanged, so the right map is known.
TEST(SimilarityTest, HeadMapFindsExchangedHeads) {
  Window window(7);
  for (int32_t t = 0; t < kTokens; ++t) {
    for (int32_t g = 0; g < kKvHeads; ++g) {
      const int32_t from = kKvHeads - 1 - g;
      std::copy_n(&window.k[0][(t * kKvHeads + from) * kDim], kDim,
                  &window.k[2][(t * kKvHeads + g) * kDim]);
      std::copy_n(&window.q[0][(t * kHeads + from * kGroup) * kDim], kGroup * kDim,
                  &window.q[2][(t * kHeads + g * kGroup) * kDim]);
    }
  }
  const Similarity measured = record(window, kKeys, SimilarityKind::kRecalledMass, 8);
  EXPECT_THAT(measured.head_map(0, 2), ::testing::ElementsAre(1, 0));
  EXPECT_NEAR(measured.layer(0, 2), 1, 1e-6);
}

TEST(SimilarityTest, SampledTilesAreFullHaveCandidatesAndEndWithTheLast) {
  const SelectionSettings paper{};  // 128 keys at least, tiles of 32
  EXPECT_TRUE(sampled_tiles(paper, 191).empty());
  EXPECT_THAT(sampled_tiles(paper, 192), ::testing::ElementsAre(160));
  const std::set<int32_t> many = sampled_tiles(paper, 16384 + 5);
  EXPECT_EQ(many.size(), 64u);
  EXPECT_EQ(*many.rbegin(), 16384 - 32);
  for (const int32_t start : many) EXPECT_EQ(start % 32, 0);
}

}  // namespace
}  // namespace kascade
