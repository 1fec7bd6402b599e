// Tests the attention baselines: how many keys a row attends to and how many bytes their selection
// reads, compared with direct counts; which keys are selected; and, through the engine, the
// identities that hold for every attention method.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "engine/attention/policy.h"
#include "engine/backend/cpu/panel_kernels.h"
#include "engine/backend/host/host_buffer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/kernel_cases.h"
#include "tests/support/same_reply.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

constexpr int32_t kLayers = 4;
constexpr BaselineKind kKinds[] = {BaselineKind::kOracle, BaselineKind::kStreaming,
                                   BaselineKind::kQuest};

// Small enough to leave keys out of a hundred, with page borders that 32 is no multiple of.
BaselineAttention small(BaselineKind kind) {
  BaselineAttention baseline = BaselineAttention::defaults(kind);
  baseline.ratio = 0.3;
  baseline.min_keys = 7;
  baseline.page_size = 6;
  baseline.dense_layers = {0};
  return baseline;
}

std::string name_of(BaselineKind kind) {
  return kind == BaselineKind::kOracle      ? "oracle"
         : kind == BaselineKind::kStreaming ? "streaming"
                                            : "quest";
}

// ---- Arithmetic
// ----------------------------------------------------------------------------------

// Keys that row t attends to, and rows of the key cache read to choose them, by the definitions.
struct Counted {
  int64_t attended = 0, to_choose = 0;
};
Counted counted(const BaselineAttention& baseline, int32_t t) {
  const int32_t page = baseline.page_size;
  int32_t tile = 32;
  while (baseline.kind == BaselineKind::kQuest && tile % page != 0) ++tile;
  const int32_t before = t - t % tile;  // keys before the row's own tile
  const int32_t own = t - before + 1;
  const auto share = static_cast<int32_t>(baseline.ratio * before);
  const int32_t wanted = std::max(baseline.min_keys, share);
  switch (baseline.kind) {
    case BaselineKind::kOracle: {
      const int32_t sinks = std::min(baseline.sink_keys, before);
      const int32_t chosen = std::min(wanted, before - sinks);
      return {own + sinks + chosen, chosen < before - sinks ? t + 1 : 0};
    }
    case BaselineKind::kStreaming:
      return {own + std::min(wanted, before), 0};
    case BaselineKind::kQuest: {
      const int32_t pages = std::min(std::max(wanted / page, 1), before / page);
      return {own + pages * page, pages * page < before ? 2 * (before / page) : 0};
    }
    case BaselineKind::kWindow:
    case BaselineKind::kChunk:
      break;  // without a budget; nearby_test.cc
  }
  return {};
}

TEST(BaselineCounts, AreThoseOfTheDefinitions) {
  for (const BaselineKind kind : kKinds) {
    for (const int32_t sinks : {0, 3, 50}) {
      BaselineAttention baseline = small(kind);
      if (kind != BaselineKind::kQuest) baseline.sink_keys = sinks;
      const auto policy = make_policy(baseline, kLayers);
      for (int32_t t = 0; t < 300; ++t) {
        SCOPED_TRACE(name_of(kind) + " row " + std::to_string(t));
        const Counted expected = counted(baseline, t);
        const KeysRead keys = policy->keys_read(1, {t, t, true});
        EXPECT_EQ(keys.causal, t + 1);
        EXPECT_EQ(keys.attended, expected.attended);
        EXPECT_EQ(keys.scored, expected.to_choose);
        // Keys and values, and bounds on top; the oracle's scored keys are keys read.
        const int64_t chosen_by = kind == BaselineKind::kOracle
                                      ? std::max(expected.to_choose - expected.attended, int64_t{0})
                                      : expected.to_choose;
        EXPECT_EQ(keys.kv_rows, 2 * expected.attended + chosen_by);
        EXPECT_EQ(policy->keys_read(0, {t, t, true}).attended, t + 1) << "dense layer";
      }
    }
  }
}

TEST(BaselineCounts, OfATileAreTheSumOfItsRows) {
  for (const BaselineKind kind : kKinds) {
    const auto policy = make_policy(small(kind), kLayers);
    const int32_t first = 6 * policy->tiling().query_tile;
    KeysRead sum;
    for (int32_t t = first; t < first + 20; ++t) sum += policy->keys_read(2, {t, t, true});
    const KeysRead tile = policy->keys_read(2, {first, first + 19, false});
    EXPECT_EQ(tile.attended, sum.attended);
    EXPECT_EQ(tile.scored, sum.scored);
    EXPECT_EQ(tile.kv_rows, sum.kv_rows);
  }
}

// What a comparison at equal ratio rests on.
TEST(BaselineCounts, StreamingAttendsToAsManyKeysAsTheOracleWithoutSinks) {
  const auto oracle = make_policy(small(BaselineKind::kOracle), kLayers);
  for (const int32_t sinks : {0, 4, 500}) {
    BaselineAttention baseline = small(BaselineKind::kStreaming);
    baseline.sink_keys = sinks;
    const auto streaming = make_policy(baseline, kLayers);
    for (int32_t t = 0; t < 400; ++t) {
      EXPECT_EQ(streaming->keys_read(1, {t, t, true}).attended,
                oracle->keys_read(1, {t, t, true}).attended);
    }
  }
}

TEST(BaselineCounts, DefaultsAreThePublishedOnes) {
  EXPECT_EQ(BaselineAttention::defaults(BaselineKind::kStreaming).sink_keys, 4);
  EXPECT_EQ(BaselineAttention::defaults(BaselineKind::kQuest).page_size, 16);
  EXPECT_THAT(BaselineAttention::defaults(BaselineKind::kQuest).dense_layers,
              ::testing::ElementsAre(0, 1));
  const auto quest = make_policy(BaselineAttention::defaults(BaselineKind::kQuest), kLayers);
  EXPECT_EQ(quest->layer_kind(1), LayerKind::kDense);
  EXPECT_EQ(quest->layer_kind(2), LayerKind::kSelecting);
  EXPECT_EQ(quest->tiling().query_tile, 32);
}

// ---- Which keys
// ----------------------------------------------------------------------------------

constexpr SequenceRows kLongRow{300, 1, true};

// One row late in a sequence, with the candidates of a policy.
AttentionData row_of(const AttentionPolicy& policy, const AttentionCase& shape) {
  AttentionData data(shape, DType::kF32);
  const Candidates from = policy.candidates(kLongRow.first, true);
  data.batch.candidate_begin[0] = from.begin;
  data.batch.candidate_end[0] = from.end;
  data.batch.budget[0] = from.budget;
  return data;
}

TEST(BaselineKeys, StreamingReadsTheFirstAndTheNewestOnly) {
  const BaselineAttention baseline = small(BaselineKind::kStreaming);
  const auto policy = make_policy(baseline, kLayers);
  const AttentionCase shape{.kv_heads = 2, .group = 2, .dim = 8, .sequences = {kLongRow}};
  const AttentionData data = row_of(*policy, shape);
  // 288 keys before the tile, 86 of them attended to: 4 sinks and the newest 82.
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int32_t g = 0; g < shape.kv_heads; ++g) {
    for (int32_t key = 4; key < 288 - 82; ++key) {
      data.set(data.cache.keys, data.cache_row(0, g, key), nan);
      data.set(data.cache.values, data.cache_row(0, g, key), nan);
    }
  }
  const auto backend = make_reference_backend();
  PolicyState state;
  const auto step = backend->prepare(data.batch);
  const HostBuffer out(DType::kF32, 1, data.width());
  const AttentionInput in{data.q, {}, data.cache, data.batch, *step, data.tiles(), out.view()};
  policy->attend(*backend, 1, in, state);
  const auto finite = [&] {
    return std::all_of(out.view().f32(0), out.view().f32(0) + data.width(),
                       [](float value) { return std::isfinite(value); });
  };
  EXPECT_TRUE(finite());
  for (const int32_t attended : {3, 288 - 82, 288, 300}) {
    const int64_t row = data.cache_row(0, 1, attended);
    const float before = data.cache.values.f32(row)[0];
    data.cache.values.f32(row)[0] = nan;
    policy->attend(*backend, 1, in, state);
    EXPECT_FALSE(finite()) << attended;
    data.cache.values.f32(row)[0] = before;
  }
}

// Pages of one key have q·k itself as their bound: the best keys by logits.
TEST(BaselineKeys, PagesOfOneKeyAreTheLargestProducts) {
  BaselineAttention baseline = small(BaselineKind::kQuest);
  baseline.page_size = 1;
  const auto policy = make_policy(baseline, kLayers);
  const AttentionCase shape{.kv_heads = 2, .group = 3, .dim = 8, .sequences = {kLongRow}};
  const AttentionData data = row_of(*policy, shape);
  const auto backend = make_reference_backend();
  const auto selection = backend->make_selection();
  backend->select_pages(data.q, data.cache, *backend->prepare(data.batch), data.tiles(), 1,
                        *selection);
  for (int32_t g = 0; g < shape.kv_heads; ++g) {
    std::vector<std::pair<float, int32_t>> products;
    for (int32_t key = 0; key < 288; ++key) {
      float best = -std::numeric_limits<float>::infinity();
      for (int32_t head = 0; head < shape.group; ++head) {
        const float* q = data.q.f32(0) + (g * shape.group + head) * shape.dim;
        const float* k = data.cache.keys.f32(data.cache_row(0, g, key));
        float product = 0;
        for (int32_t d = 0; d < shape.dim; ++d) product += q[d] * k[d];
        best = std::max(best, product);
      }
      products.emplace_back(-best, key);
    }
    std::sort(products.begin(), products.end());
    std::set<int32_t> expected;
    for (int32_t i = 0; i < 86; ++i) expected.insert(products[i].second);
    EXPECT_THAT(selection->read(0, g), ::testing::ElementsAreArray(expected));
  }
}

// ---- Through the engine
// ----------------------------------------------------------------------------------

struct EngineCase {
  std::string backend, weights;
  BaselineKind kind;
};
std::string name_of(const EngineCase& c) {
  return c.backend + "_" + c.weights + "_" + name_of(c.kind);
}
void PrintTo(const EngineCase& c, std::ostream* out) { *out << name_of(c); }

class BaselineTest : public ::testing::TestWithParam<EngineCase> {
 protected:
  BaselineTest() {
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
  static BaselineAttention baseline(double ratio = 0.2) {
    BaselineAttention baseline = BaselineAttention::defaults(GetParam().kind);
    baseline.ratio = ratio;
    baseline.min_keys = 8;
    baseline.page_size = 8;
    return baseline;
  }
  static Request scoring(std::vector<Token> tokens, int32_t first_scored = 1) {
    Request request{.tokens = std::move(tokens), .task = Score{.first_scored = first_scored}};
    request.attention = baseline();
    return request;
  }
  static Request greedy(std::vector<Token> tokens, int32_t count) {
    Request request{
        .tokens = std::move(tokens),
        .task = Generate{
            .sampling = {.temperature = 0}, .max_new_tokens = count, .want_logprobs = true}};
    request.attention = baseline();
    return request;
  }
  static std::vector<Token> text(int32_t count, uint64_t seed = 7) {
    return random_tokens(count, 256, seed);
  }
  static double tolerance() { return row_tolerance(GetParam().backend, GetParam().weights); }

  TempDir dir_;
};

TEST_P(BaselineTest, NeedsNoScheduleAndDropsKeys) {
  const auto engine = this->engine();
  Request request = scoring(text(600));
  request.compared_with = std::exchange(request.attention, DenseAttention{});
  const Reply both = run(*engine, request);
  double kl = 0;
  for (const TokenComparison& token : both.comparisons) kl += token.kl;
  EXPECT_GT(kl, 0);
  const AttentionCounts& counts = both.finish.counts.at(1);
  EXPECT_LT(counts.attended, counts.causal * 8 / 10);
  request.attention = *std::exchange(request.compared_with, std::nullopt);
  const Reply sparse = run(*engine, request);
  EXPECT_EQ(sparse.finish.counts.at(0).attended, counts.attended);
}

TEST_P(BaselineTest, RatioOneIsDense) {
  const auto engine = this->engine();
  Request request = scoring(text(500));
  request.attention = baseline(1);
  const Reply sparse = run(*engine, request);
  EXPECT_EQ(sparse.finish.counts.at(0).attended, sparse.finish.counts.at(0).causal);
  EXPECT_EQ(sparse.finish.counts.at(0).scored, 0);
  request.attention = DenseAttention{};
  expect_same(sparse, run(*engine, request), tolerance());
}

TEST_P(BaselineTest, ChunkedEqualsWhole) {
  const auto whole = engine(2048);
  const auto chunked = engine();
  for (const auto granularity : {SelectionGranularity::kPerQuery, SelectionGranularity::kPerTile}) {
    Request request = scoring(text(700), granularity == SelectionGranularity::kPerQuery ? 301 : 1);
    std::get<Score>(request.task).granularity = granularity;
    expect_same(run(*whole, request), run(*chunked, request), tolerance());
  }
}

TEST_P(BaselineTest, BatchedEqualsAloneAndScoredEqualsGenerated) {
  const auto engine = this->engine();
  ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, {.ratio = 0.2, .min_keys = 8})).ok());
  std::vector<Request> requests;
  for (int32_t i = 0; i < 6; ++i) {
    requests.push_back(i % 2 == 0 ? greedy(text(137 + 61 * i, i), 25) : scoring(text(90 * i, i)));
    if (i == 4) std::get<BaselineAttention>(requests.back().attention).ratio = 0.5;
    if (i == 5) requests.back().attention = default_attention(engine->active_schedule());
  }
  std::vector<PendingReply> pending(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(engine->submit(requests[i], pending[i].sink()).ok());
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    expect_same(pending[i].wait(), run(*engine, requests[i]), tolerance());
  }
  const Reply generated = run(*engine, requests[2]);
  std::vector<Token> all = requests[2].tokens;
  for (const Token token : generated.ids()) all.push_back(token);
  const auto prompt = static_cast<int32_t>(requests[2].tokens.size());
  expect_same(generated, run(*engine, scoring(all, prompt)), std::max(tolerance(), 1e-6));
}

TEST_P(BaselineTest, FutureTokensNeverMatter) {
  const auto engine = this->engine();
  for (const auto granularity : {SelectionGranularity::kPerQuery, SelectionGranularity::kPerTile}) {
    // 416 is a border of tiles of 32.
    const size_t unchanged = granularity == SelectionGranularity::kPerQuery ? 405 : 416;
    Request a = scoring(text(512));
    std::get<Score>(a.task).granularity = granularity;
    Request b = a;
    for (size_t i = unchanged; i < b.tokens.size(); ++i) b.tokens[i] = 255 - b.tokens[i];
    const Reply first = run(*engine, a);
    const Reply second = run(*engine, b);
    for (size_t i = 0; i + 1 < unchanged; ++i) {
      EXPECT_NEAR(first.tokens[i].logprob, second.tokens[i].logprob, tolerance()) << i;
    }
  }
}

std::vector<EngineCase> engine_cases() {
  std::vector<EngineCase> cases;
  for (const BaselineKind kind : kKinds) {
    cases.push_back({"reference", "f32", kind});
    cases.push_back({"far_memory", "f32", kind});
    cases.push_back({"cpu", "f32", kind});
    cases.push_back({"cpu", "bf16", kind});
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Backends, BaselineTest, ::testing::ValuesIn(engine_cases()),
                         [](const auto& test) { return name_of(test.param); });

TEST(BaselineRefusals, NameTheField) {
  const TempDir dir;
  write_tiny_model({.layers = 2, .context = 64}, dir.path());
  EngineOptions options;
  options.model_directory = dir.path();
  options.backend = "reference";
  const auto engine = make_engine(options);
  const struct {
    std::string text;
    void (*spoil)(BaselineAttention&);
  } cases[] = {
      {"baseline.ratio: must be in (0, 1], got 0", [](BaselineAttention& a) { a.ratio = 0; }},
      {"baseline.ratio", [](BaselineAttention& a) { a.ratio = std::nan(""); }},
      {"baseline.min_keys: must be in [0, ", [](BaselineAttention& a) { a.min_keys = -1; }},
      {"baseline.sink_keys", [](BaselineAttention& a) { a.sink_keys = 1 << 21; }},
      {"baseline.sink_keys: must be in [0, 0], got 4",
       [](BaselineAttention& a) {
         a.kind = BaselineKind::kQuest;
         a.sink_keys = 4;
       }},
      {"baseline.page_size: must be in [1, 128], got 0",
       [](BaselineAttention& a) { a.page_size = 0; }},
      {"baseline.page_size", [](BaselineAttention& a) { a.page_size = 129; }},
      {"baseline.dense_layers[0]: must be in [0, 1], got 2",
       [](BaselineAttention& a) { a.dense_layers = {2}; }},
  };
  for (const auto& [text, spoil] : cases) {
    Request request{.tokens = {1, 2, 3}, .task = Generate{}};
    BaselineAttention baseline{};
    spoil(baseline);
    request.attention = baseline;
    const auto id = engine->submit(request, [](const Event&) { FAIL(); });
    EXPECT_TRUE(absl::IsInvalidArgument(id.status())) << id.status();
    EXPECT_THAT(std::string(id.status().message()), ::testing::HasSubstr(text));
  }
  const auto compared = engine->submit(
      {.tokens = {1, 2, 3}, .task = Generate{}, .compared_with = BaselineAttention{}},
      [](const Event&) { FAIL(); });
  EXPECT_THAT(std::string(compared.status().message()),
              ::testing::HasSubstr("compared_with: goes with a text to score only"));
}

}  // namespace
}  // namespace kascade::testing
