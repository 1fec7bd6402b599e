// Tests attention to nearby keys alone, a sliding window or chunks: the keys that a row attends to
// against a direct computation in float64, the counts that are reported, and, through the engine,
// the identities that hold for every attention method.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "engine/attention/policy.h"
#include "engine/backend/cpu/panel_kernels.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/runtime/batch_builder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/kernel_cases.h"
#include "tests/support/same_reply.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

constexpr int32_t kLayers = 4;
// One key, the sizes around those of tiles and blocks, a prime above a tile, whole tiles.
constexpr int32_t kSizes[] = {1, 15, 16, 17, 33, 37, 64, 96};

BaselineAttention window_of(int32_t keys) {
  BaselineAttention baseline = BaselineAttention::defaults(BaselineKind::kWindow);
  baseline.window = keys;
  return baseline;
}
BaselineAttention chunk_of(int32_t tokens) {
  BaselineAttention baseline = BaselineAttention::defaults(BaselineKind::kChunk);
  baseline.chunk = tokens;
  return baseline;
}
BaselineAttention nearby(BaselineKind kind, int32_t size) {
  return kind == BaselineKind::kWindow ? window_of(size) : chunk_of(size);
}

// The first key that row t attends to, by the definitions.
int32_t first_key(BaselineKind kind, int32_t size, int32_t t) {
  return kind == BaselineKind::kWindow ? std::max(0, t - size + 1) : t - t % size;
}

// ---- Counts

TEST(NearbyCounts, AreThoseOfTheDefinitions) {
  for (const BaselineKind kind : {BaselineKind::kWindow, BaselineKind::kChunk}) {
    for (const int32_t size : kSizes) {
      const auto policy = make_policy(nearby(kind, size), kLayers);
      EXPECT_EQ(policy->layer_kind(0), LayerKind::kWindow) << "no layer is dense by default";
      int64_t sum = 0;
      for (int32_t t = 0; t < 200; ++t) {
        const KeysRead keys = policy->keys_read(2, {t, t, true});
        EXPECT_EQ(keys.causal, t + 1);
        EXPECT_EQ(keys.attended, t + 1 - first_key(kind, size, t)) << size << " row " << t;
        EXPECT_EQ(keys.scored, 0);
        EXPECT_EQ(keys.kv_rows, 2 * keys.attended);
        sum += keys.attended;
      }
      EXPECT_EQ(policy->keys_read(2, {0, 199, false}).attended, sum);
    }
  }
  BaselineAttention some_dense = window_of(16);
  some_dense.dense_layers = {3};
  EXPECT_EQ(make_policy(some_dense, kLayers)->keys_read(3, {99, 99, true}).attended, 100);
}

TEST(NearbyTiles, ShareTheBeginOfTheirKeys) {
  for (const auto& [size, tile] :
       {std::pair{1, 1}, {15, 15}, {16, 16}, {33, 11}, {37, 1}, {64, 32}}) {
    EXPECT_EQ(make_policy(chunk_of(size), kLayers)->tiling().query_tile, tile) << size;
    EXPECT_EQ(make_policy(window_of(size), kLayers)->tiling().query_tile, 1) << size;
  }
}

// ---- Which keys, against float64

// softmax(q·k/√D)·v of one row and query head over the keys [begin, end), in float64.
std::vector<double> attended(const AttentionData& data, const AttentionCase& shape, int32_t row,
                             int32_t tile, int32_t head, int32_t begin) {
  const int32_t g = head / shape.group, end = data.batch.positions[row] + 1;
  const float* q = data.q.f32(row) + int64_t{head} * shape.dim;
  std::vector<double> weights, out(shape.dim, 0.0);
  double largest = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int32_t key = begin; key < end; ++key) {
    const float* k = data.cache.keys.f32(data.cache_row(tile, g, key));
    double dot = 0;
    for (int32_t d = 0; d < shape.dim; ++d) dot += double{q[d]} * k[d];
    weights.push_back(dot / std::sqrt(static_cast<double>(shape.dim)));
    largest = std::max(largest, weights.back());
  }
  for (double& weight : weights) sum += weight = std::exp(weight - largest);
  for (int32_t key = begin; key < end; ++key) {
    const float* v = data.cache.values.f32(data.cache_row(tile, g, key));
    for (int32_t d = 0; d < shape.dim; ++d) out[d] += weights[key - begin] / sum * v[d];
  }
  return out;
}

// Rebuilds the tiles of the batch as the batch builder makes them for the policy.
void set_tiles(const AttentionPolicy& policy, const std::vector<SequenceRows>& sequences,
               Batch& batch) {
  batch.tile_start = {0};
  for (auto* list :
       {&batch.tile_seq, &batch.candidate_begin, &batch.candidate_end, &batch.budget}) {
    list->clear();
  }
  for (int32_t seq = 0; seq < std::ssize(sequences); ++seq) {
    const int32_t end = sequences[seq].first + sequences[seq].count;
    for_each_tile(policy, end, sequences[seq].first, end, [&](const TileSpan& tile) {
      const Candidates from = policy.candidates(tile.first, tile.per_query);
      batch.tile_seq.push_back(seq);
      batch.candidate_begin.push_back(from.begin);
      batch.candidate_end.push_back(from.end);
      batch.budget.push_back(from.budget);
      batch.tile_start.push_back(batch.tile_start.back() + tile.last + 1 - tile.first);
    });
  }
}

TEST(NearbyKeys, AreThoseOfTheDefinitionsInFloat64) {
  // Whole prompts, chunks of a prompt that begin and end inside windows, and single late rows.
  const std::vector<SequenceRows> sequences{{0, 70}, {47, 40}, {128, 32}, {199, 1}};
  const AttentionCase shape{.kv_heads = 2, .group = 2, .dim = 8, .sequences = sequences};
  for (const auto& backend :
       {make_reference_backend(), *open_backend({.name = "cpu", .weights = WeightFormat::kF32})}) {
    for (const BaselineKind kind : {BaselineKind::kWindow, BaselineKind::kChunk}) {
      for (const int32_t size : kSizes) {
        AttentionData data(shape, DType::kF32);
        const auto policy = make_policy(nearby(kind, size), kLayers);
        set_tiles(*policy, sequences, data.batch);
        PolicyState state;
        const auto step = backend->prepare(data.batch);
        const HostBuffer out(DType::kF32, data.batch.rows(), data.width());
        policy->attend(*backend, 1,
                       {data.q, {}, data.cache, data.batch, *step, data.tiles(), out.view()},
                       state);
        for (int32_t tile = 0; tile < data.batch.tiles(); ++tile) {
          for (int32_t row = data.batch.tile_start[tile]; row < data.batch.tile_start[tile + 1];
               ++row) {
            const int32_t first = first_key(kind, size, data.batch.positions[row]);
            for (int32_t head = 0; head < shape.kv_heads * shape.group; ++head) {
              const auto expected = attended(data, shape, row, tile, head, first);
              for (int32_t d = 0; d < shape.dim; ++d) {
                EXPECT_NEAR(out.view().f32(row)[head * shape.dim + d], expected[d], 2e-5)
                    << size << " position " << data.batch.positions[row];
              }
            }
          }
        }
      }
    }
  }
}

// ---- Through the engine

struct EngineCase {
  std::string backend, weights;
  BaselineKind kind;
};
std::string name_of(const EngineCase& c) {
  return c.backend + "_" + c.weights + (c.kind == BaselineKind::kWindow ? "_window" : "_chunk");
}
void PrintTo(const EngineCase& c, std::ostream* out) { *out << name_of(c); }

class NearbyTest : public ::testing::TestWithParam<EngineCase> {
 protected:
  NearbyTest() {
    write_tiny_model({.layers = kLayers, .context = 768, .peaked = true}, dir_.path());
  }
  void SetUp() override {
    if (GetParam().weights == "bf16" && cpu::pick_bf16_kernels() == nullptr) {
      GTEST_SKIP() << "no bf16 instructions on this machine";
    }
  }

  std::unique_ptr<Engine> engine(int32_t batch_tokens = 264) const {
    EngineOptions options;
    options.model_directory = dir_.path();
    options.backend = GetParam().backend;
    options.weights = GetParam().weights;
    options.max_sequences = 8;
    options.max_batch_tokens = batch_tokens;
    return make_engine(options);
  }
  static Request scoring(std::vector<Token> tokens, int32_t size, int32_t first_scored = 1) {
    Request request{.tokens = std::move(tokens), .task = Score{.first_scored = first_scored}};
    request.attention = nearby(GetParam().kind, size);
    return request;
  }
  static std::vector<Token> text(int32_t count, uint64_t seed = 7) {
    return random_tokens(count, 256, seed);
  }
  static double tolerance() { return row_tolerance(GetParam().backend, GetParam().weights); }

  TempDir dir_;
};

TEST_P(NearbyTest, AsLongAsTheTextIsDenseAndOneTokenLessIsNot) {
  const auto engine = this->engine();
  Request request = scoring(text(300), 299);  // the last token is not fed
  const Reply whole = run(*engine, request);
  EXPECT_EQ(whole.finish.counts.at(0).attended, whole.finish.counts.at(0).causal);
  request.attention = DenseAttention{};
  const Reply dense = run(*engine, request);
  expect_same(whole, dense, tolerance());
  request.attention = nearby(GetParam().kind, 298);
  const Reply less = run(*engine, request);
  EXPECT_LT(less.finish.counts.at(0).attended, less.finish.counts.at(0).causal);
  EXPECT_NE(less.tokens.back().logprob, dense.tokens.back().logprob);
  EXPECT_NEAR(less.tokens[296].logprob, dense.tokens[296].logprob, tolerance());
}

// A row that attends to itself alone has the value of its own token, in every layer: what is
// predicted depends on the token before and on nothing else.
TEST_P(NearbyTest, OneKeyIsTheRowItself) {
  const auto engine = this->engine();
  std::vector<Token> tokens = text(100);
  tokens[50] = tokens[70] = tokens[99 - 1] = 65;
  tokens[51] = tokens[71] = tokens[99] = 66;
  const Reply reply = run(*engine, scoring(tokens, 1));
  // Token i is the i-th of the text, its predecessor's row decides.
  const double once = reply.tokens[50].logprob;
  EXPECT_NEAR(reply.tokens[70].logprob, once, 1e-5);
  EXPECT_NEAR(reply.tokens[98].logprob, once, 1e-5);
  const AttentionCounts& counts = reply.finish.counts.at(0);
  EXPECT_EQ(counts.attended, 99 * 2 * kLayers);
  EXPECT_EQ(counts.kv_bytes_read * counts.causal, counts.dense_kv_bytes_read * counts.attended);
}

TEST_P(NearbyTest, ChunkedPrefillEqualsWhole) {
  const auto whole = engine(2048);
  const auto chunked = engine();
  for (const int32_t size : {1, 17, 33, 300}) {
    for (const auto granularity :
         {SelectionGranularity::kPerQuery, SelectionGranularity::kPerTile}) {
      Request request = scoring(text(700), size, 301);
      std::get<Score>(request.task).granularity = granularity;
      expect_same(run(*whole, request), run(*chunked, request), tolerance());
    }
  }
}

TEST_P(NearbyTest, BatchedEqualsAloneAndDecodingEqualsPrefill) {
  const auto engine = this->engine();
  std::vector<Request> requests;
  for (int32_t i = 0; i < 6; ++i) {
    Request request = scoring(text(90 + 61 * i, i), kSizes[i]);
    if (i % 2 == 0) {
      request.task =
          Generate{.sampling = {.temperature = 0}, .max_new_tokens = 40, .want_logprobs = true};
    }
    requests.push_back(std::move(request));
  }
  std::vector<PendingReply> pending(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(engine->submit(requests[i], pending[i].sink()).ok());
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    expect_same(pending[i].wait(), run(*engine, requests[i]), tolerance());
  }
  for (const size_t i : {0u, 2u, 4u}) {
    const Reply generated = run(*engine, requests[i]);
    std::vector<Token> all = requests[i].tokens;
    for (const Token token : generated.ids()) all.push_back(token);
    const auto prompt = static_cast<int32_t>(requests[i].tokens.size());
    expect_same(generated, run(*engine, scoring(all, kSizes[i], prompt)),
                std::max(tolerance(), 1e-6));
  }
}

// In one layer a row sees nothing before its first key; a change there must not reach it. (More
// layers reach further: the rows in reach attended to keys before it.)
TEST_P(NearbyTest, TokensOutOfReachDoNotMatter) {
  const auto engine = this->engine();
  constexpr int32_t kReach = 17;
  Request a = scoring(text(256), kReach);
  Request b = a;
  for (size_t i = 0; i < 34; ++i) b.tokens[i] = 255 - b.tokens[i];
  const Reply first = run(*engine, a), second = run(*engine, b);
  // Through the layers a change at 33 reaches kLayers · (kReach − 1) rows further, in chunks none.
  const size_t safe =
      GetParam().kind == BaselineKind::kWindow ? 33 + kLayers * (kReach - 1) + 1 : 34;
  double reached = 0;
  for (size_t i = 0; i < first.tokens.size(); ++i) {
    const double change = std::abs(first.tokens[i].logprob - second.tokens[i].logprob);
    if (i < safe) {
      reached = std::max(reached, change);
    } else {
      EXPECT_LE(change, tolerance()) << i;
    }
  }
  EXPECT_GT(reached, 0.01);
}

std::vector<EngineCase> engine_cases() {
  std::vector<EngineCase> cases;
  for (const BaselineKind kind : {BaselineKind::kWindow, BaselineKind::kChunk}) {
    cases.push_back({"reference", "f32", kind});
    cases.push_back({"far_memory", "f32", kind});
    cases.push_back({"cpu", "f32", kind});
    cases.push_back({"cpu", "bf16", kind});
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Backends, NearbyTest, ::testing::ValuesIn(engine_cases()),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace kascade::testing
