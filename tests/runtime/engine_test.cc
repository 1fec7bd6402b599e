// Tests the engine through its public interface: different ways of computing the same thing must
// agree, and requests may end early in various ways. Results agree bitwise on the reference backend
// and, on machines with the bf16 dot product, with all weight formats but f32.
#include "engine/engine.h"

#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "engine/backend/cpu/matmul_onednn.h"
#include "engine/backend/cpu/panel_kernels.h"
#include "engine/calibration/calibration.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

constexpr SelectionSettings kKeys{
    .family = Family::kKascade, .query_tile = 16, .ratio = 0.1, .min_keys = 8};
constexpr SelectionSettings kTiles{.family = Family::kTile, .query_tile = 16, .top_k = 2};
constexpr SelectionSettings kMass{.query_tile = 16, .min_keys = 2, .mass = 0.99, .max_ratio = 0.5};
// The same by the 4-bit copy of the keys.
constexpr SelectionSettings kInt4Mass{
    .query_tile = 16, .min_keys = 2, .mass = 0.99, .max_ratio = 0.5, .int4_keys = true};
// The same, dense at first.
constexpr SelectionSettings kLateInt4Mass{.query_tile = 16,
                                          .min_keys = 2,
                                          .mass = 0.99,
                                          .max_ratio = 0.5,
                                          .int4_keys = true,
                                          .dense_below = 128};

struct EngineCase {
  std::string backend;
  std::string weights;
  std::string cache = "auto";
};
std::string name_of(const EngineCase& c) {
  return c.backend + "_" + c.weights + (c.cache == "auto" ? "" : "_cache_" + c.cache);
}
void PrintTo(const EngineCase& c, std::ostream* out) { *out << name_of(c); }

class EngineTest : public ::testing::TestWithParam<EngineCase> {
 protected:
  EngineTest() {
    const bool native = GetParam().weights == "native";
    write_tiny_model(
        {.layers = 4, .context = 768, .dtype = native ? DType::kQ8_0 : DType::kF32, .peaked = true},
        dir_.path());
  }

  void SetUp() override {
    if (GetParam().weights == "bf16" && cpu::pick_bf16_kernels() == nullptr) {
      GTEST_SKIP() << "no bf16 instructions on this machine";
    }
  }

  EngineOptions options() const {
    EngineOptions options;
    options.model_directory = dir_.path();
    options.backend = GetParam().backend;
    options.weights = GetParam().weights;
    options.kv_cache_dtype = GetParam().cache;
    options.max_sequences = 8;
    options.max_batch_tokens = 264;
    return options;
  }

  void expect_same(const Reply& a, const Reply& b, double tolerance) const {
    ASSERT_EQ(a.tokens.size(), b.tokens.size());
    for (size_t i = 0; i < a.tokens.size(); ++i) {
      EXPECT_EQ(a.tokens[i].token, b.tokens[i].token) << i;
      EXPECT_NEAR(a.tokens[i].logprob, b.tokens[i].logprob, tolerance) << i;
    }
  }
  // Of rows computed in the same way in other company. In f32 without AVX-512 oneDNN's rounding
  // differs with the shapes of the products.
  double company_tolerance() const {
    const bool f32 = GetParam().backend == "cpu" && GetParam().weights == "f32";
    return f32 && !cpu::rows_are_independent() ? 2e-4 : 0.0;
  }
  // Of rows whose attention is computed once in a tile and once alone: in f32 by kernels that add
  // in other orders. The rounding that differs may make a quantised activation fall on the next
  // level.
  double tolerance() const {
    if (GetParam().backend != "cpu") return 0.0;
    if (GetParam().weights == "f32") return 2e-4;
    return cpu::pick_bf16_kernels() != nullptr ? 0.0 : 0.1;
  }

  static Request scoring(const Engine& engine, std::vector<Token> tokens, Mode mode,
                         int32_t first_scored = 1) {
    return with_mode(
        engine, {.tokens = std::move(tokens), .task = Score{.first_scored = first_scored}}, mode);
  }
  static Request greedy(const Engine& engine, std::vector<Token> tokens, Mode mode, int32_t count) {
    const Generate generate{
        .sampling = {.temperature = 0}, .max_new_tokens = count, .want_logprobs = true};
    return with_mode(engine, {.tokens = std::move(tokens), .task = generate}, mode);
  }
  static std::vector<Token> text(int32_t count, uint64_t seed = 7) {
    return random_tokens(count, 256, seed);
  }

  TempDir dir_;
};

int64_t cache_bytes_per_token(const Engine& engine) {
  return engine.info().kv_bytes_per_token + engine.info().int4_key_bytes_per_token;
}

double largest_difference(const Reply& a, const Reply& b) {
  double largest = 0;
  for (size_t i = 0; i < std::min(a.tokens.size(), b.tokens.size()); ++i) {
    largest = std::max(largest, std::abs(double{a.tokens[i].logprob} - b.tokens[i].logprob));
  }
  return largest;
}

TEST_P(EngineTest, SparseDiffersFromDenseAndDropsKeys) {
  const auto engine = make_engine(options());
  for (const SelectionSettings& rule : {kKeys, kTiles}) {
    ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, rule)).ok());
    const Reply dense = run(*engine, scoring(*engine, text(600), Mode::kDense));
    const Reply sparse = run(*engine, scoring(*engine, text(600), Mode::kSparse));
    EXPECT_GT(largest_difference(dense, sparse), 1e-3) << name_of(rule.family);
    EXPECT_LT(sparse.finish.counts.back().attended, sparse.finish.counts.back().causal * 6 / 10);
    EXPECT_LT(sparse.finish.counts.back().kv_bytes_read,
              sparse.finish.counts.back().dense_kv_bytes_read);
    EXPECT_EQ(dense.finish.counts.back().attended, dense.finish.counts.back().causal);
    EXPECT_EQ(dense.finish.counts.back().scored, 0);
  }
}

TEST_P(EngineTest, RatioOneIsDense) {
  const auto engine = make_engine(options());
  SelectionSettings all = kKeys;
  all.ratio = 1;
  for (const std::vector<int32_t>& anchors : {std::vector<int32_t>{1}, {1, 2, 3}, {}}) {
    ASSERT_TRUE(engine->activate(make_schedule(*engine, anchors, all)).ok());
    const Reply dense = run(*engine, scoring(*engine, text(500), Mode::kDense));
    const Reply sparse = run(*engine, scoring(*engine, text(500), Mode::kSparse));
    EXPECT_LE(largest_difference(dense, sparse), std::max(tolerance(), 2e-5));
    EXPECT_EQ(sparse.finish.counts.back().attended, sparse.finish.counts.back().causal);
  }
}

TEST_P(EngineTest, RequestRatioOverridesTheSchedule) {
  const auto engine = make_engine(options());
  ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, kKeys)).ok());
  Request request = scoring(*engine, text(500), Mode::kSparse);
  std::get<ScheduledAttention>(request.attention).ratio = 1.0;
  const Reply whole = run(*engine, request);
  EXPECT_EQ(whole.finish.counts.back().attended, whole.finish.counts.back().causal);
  std::get<ScheduledAttention>(request.attention).ratio = 0.5;
  const Reply half = run(*engine, request);
  EXPECT_LT(half.finish.counts.back().attended, half.finish.counts.back().causal);
}

TEST_P(EngineTest, ChunkedEqualsWhole) {
  EngineOptions wide = options();
  wide.max_batch_tokens = 2048;
  const auto whole = make_engine(wide);
  const auto chunked = make_engine(options());
  for (const SelectionSettings& rule : {kKeys, kTiles}) {
    for (const Mode mode : {Mode::kDense, Mode::kSparse}) {
      for (const auto granularity :
           {SelectionGranularity::kPerQuery, SelectionGranularity::kPerTile}) {
        const auto schedule = make_schedule(*whole, {2}, rule);
        ASSERT_TRUE(whole->activate(schedule).ok() && chunked->activate(schedule).ok());
        Request request = scoring(*whole, text(700), mode);
        std::get<Score>(request.task).granularity = granularity;
        expect_same(run(*whole, request), run(*chunked, request), company_tolerance());
      }
    }
  }
}

// ---- Dense where sparse attention does not pay ----

TEST_P(EngineTest, BelowDenseBelowResultsAreThoseOfDenseAttention) {
  const auto engine = make_engine(options());
  SelectionSettings rule = kInt4Mass;
  rule.dense_below = 161;  // in the tile [160, 176), which is dense as a whole
  for (const auto granularity : {SelectionGranularity::kPerQuery, SelectionGranularity::kPerTile}) {
    ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, rule)).ok());
    Request request = scoring(*engine, text(400), Mode::kDense);
    std::get<Score>(request.task).granularity = granularity;
    const Reply dense = run(*engine, request);
    request.attention = ScheduledAttention{.schedule = engine->active_schedule()};
    const Reply mixed = run(*engine, request);
    std::get<ScheduledAttention>(request.attention).dense_below = 0;
    const Reply sparse = run(*engine, request);
    for (size_t i = 0; i < 176; ++i) {  // row i scores token i + 1
      EXPECT_NEAR(mixed.tokens[i].logprob, dense.tokens[i].logprob, tolerance()) << i;
    }
    EXPECT_NE(mixed.tokens[176].logprob, dense.tokens[176].logprob);
    EXPECT_GT(largest_difference(mixed, sparse), 1e-3);
    const AttentionCounts counts = mixed.finish.counts.back();
    EXPECT_EQ(counts.dense_positions, 176);
    EXPECT_EQ(sparse.finish.counts.back().dense_positions, 0);
    EXPECT_GT(counts.attended, sparse.finish.counts.back().attended);
    EXPECT_LT(counts.scored, sparse.finish.counts.back().scored);
  }
}

TEST_P(EngineTest, DenseBelowTheWholeTextIsDense) {
  const auto engine = make_engine(options());
  Request request = greedy(*engine, text(300), Mode::kDense, 20);
  const Reply dense = run(*engine, request);
  for (const SelectionSettings& rule : {kKeys, kTiles, kMass}) {
    request.attention = ScheduledAttention{.schedule = make_schedule(*engine, {1, 3}, rule),
                                           .dense_below = kMaxDenseBelow};
    const Reply sparse = run(*engine, request);
    // A row of a tile of its own adds in another order than one among others.
    expect_same(dense, sparse, tolerance());
    const AttentionCounts counts = sparse.finish.counts.back();
    EXPECT_EQ(counts.attended, counts.causal);
    EXPECT_EQ(counts.scored, 0);
    EXPECT_EQ(counts.kv_bytes_read, counts.dense_kv_bytes_read);
    EXPECT_EQ(counts.dense_positions, counts.positions);
  }
}

// ---- Budgets that follow the attention ----

TEST_P(EngineTest, MassOneIsDense) {
  const auto engine = make_engine(options());
  SelectionSettings all = kMass;
  all.mass = all.max_ratio = 1;
  ASSERT_TRUE(engine->activate(make_schedule(*engine, {1, 3}, all)).ok());
  const Reply dense = run(*engine, scoring(*engine, text(300), Mode::kDense));
  const Reply sparse = run(*engine, scoring(*engine, text(300), Mode::kSparse));
  expect_same(dense, sparse, tolerance());
  EXPECT_EQ(sparse.finish.counts.back().attended, sparse.finish.counts.back().causal);
  EXPECT_EQ(sparse.finish.counts.back().scored, 0);
}

TEST_P(EngineTest, MoreMassTakesMoreKeys) {
  const auto engine = make_engine(options());
  int64_t fewer = 0;
  for (const double mass : {1e-6, 0.9, 0.99, 0.999, 1.0}) {
    SelectionSettings rule = kMass;
    rule.mass = mass;
    ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, rule)).ok());
    const AttentionCounts counts =
        run(*engine, scoring(*engine, text(400), Mode::kSparse)).finish.counts.back();
    EXPECT_GT(counts.attended, fewer) << mass;
    EXPECT_LT(counts.attended, counts.causal) << mass;  // because of max_ratio
    EXPECT_GT(counts.scored, 0);
    EXPECT_LT(counts.kv_bytes_read, counts.dense_kv_bytes_read);
    fewer = counts.attended;
  }
}

TEST_P(EngineTest, ByMassChunkedEqualsWhole) {
  EngineOptions wide = options();
  wide.max_batch_tokens = 2048;
  const auto whole = make_engine(wide);
  const auto chunked = make_engine(options());
  const std::pair<SelectionGranularity, SelectionSettings> cases[] = {
      {SelectionGranularity::kPerQuery, kMass},
      {SelectionGranularity::kPerTile, kMass},
      {SelectionGranularity::kPerQuery, kInt4Mass},
      {SelectionGranularity::kPerTile, kInt4Mass},
      {SelectionGranularity::kPerTile, kLateInt4Mass}};
  for (const auto& [granularity, rule] : cases) {
    const auto schedule = make_schedule(*whole, {2}, rule);
    ASSERT_TRUE(whole->activate(schedule).ok() && chunked->activate(schedule).ok());
    Request request = scoring(*whole, text(500), Mode::kSparse);
    std::get<Score>(request.task).granularity = granularity;
    const Reply one = run(*whole, request), other = run(*chunked, request);
    expect_same(one, other, company_tolerance());
    if (company_tolerance() > 0) continue;
    EXPECT_EQ(one.finish.counts.back().attended, other.finish.counts.back().attended);
    EXPECT_EQ(one.finish.counts.back().kv_bytes_read, other.finish.counts.back().kv_bytes_read);
  }
}

TEST_P(EngineTest, ByMassBatchedEqualsAlone) {
  const auto engine = make_engine(options());
  SelectionSettings other = kInt4Mass;
  other.mass = 0.999;
  const auto schedule = make_schedule(*engine, {1}, kMass);
  const auto second = make_schedule(*engine, {2}, other);
  std::vector<Request> requests;
  for (int32_t i = 0; i < 6; ++i) {
    requests.push_back(i % 2 == 0 ? scoring(*engine, text(90 + 67 * i, i), Mode::kDense, 1 + 10 * i)
                                  : greedy(*engine, text(90 + 67 * i, i), Mode::kDense, 12));
    requests.back().attention = ScheduledAttention{.schedule = i < 4 ? schedule : second};
  }
  std::vector<PendingReply> pending(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(engine->submit(requests[i], pending[i].sink()).ok());
  }
  const bool any_order = GetParam().weights == "f32";
  for (size_t i = 0; i < requests.size(); ++i) {
    const Reply together = pending[i].wait(), alone = run(*engine, requests[i]);
    expect_same(together, alone,
                any_order ? std::max(company_tolerance(), tolerance()) : company_tolerance());
    if (company_tolerance() > 0 || any_order) continue;
    EXPECT_EQ(together.finish.counts.back().attended, alone.finish.counts.back().attended) << i;
  }
}

TEST_P(EngineTest, ByMassScoreEqualsGenerate) {
  const auto engine = make_engine(options());
  SelectionSettings late = kInt4Mass;
  late.dense_below = 250;  // among the generated tokens
  for (const SelectionSettings& rule : {kMass, kInt4Mass, late}) {
    ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, rule)).ok());
    std::vector<Token> all = text(233);
    const Reply generated = run(*engine, greedy(*engine, all, Mode::kSparse, 30));
    ASSERT_EQ(generated.tokens.size(), 30u);
    for (const Token token : generated.ids()) all.push_back(token);
    const Reply scored = run(*engine, scoring(*engine, all, Mode::kSparse, 233));
    ASSERT_EQ(scored.tokens.size(), 30u);
    for (size_t i = 0; i < 30; ++i) {
      EXPECT_NEAR(scored.tokens[i].logprob, generated.tokens[i].logprob,
                  std::max(tolerance(), 1e-6));
    }
  }
}

TEST_P(EngineTest, TheCopyOfTheKeysIsReadInTheirPlace) {
  const auto engine = make_engine(options());
  ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, kMass)).ok());
  const auto exact = run(*engine, scoring(*engine, text(600), Mode::kSparse)).finish.counts.back();
  ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, kInt4Mass)).ok());
  const auto copy = run(*engine, scoring(*engine, text(600), Mode::kSparse)).finish.counts.back();
  EXPECT_EQ(copy.scored, exact.scored);
  EXPECT_GT(copy.scored, 0);
  EXPECT_LT(copy.kv_bytes_read, exact.kv_bytes_read);
}

TEST_P(EngineTest, WithoutTheCopySchedulesThatNeedItAreRefused) {
  EngineOptions without = options();
  without.int4_keys = false;
  const auto engine = make_engine(without);
  EXPECT_EQ(engine->info().int4_key_bytes_per_token, 0);
  EXPECT_GT(make_engine(options())->info().int4_key_bytes_per_token, 0);
  const auto schedule = make_schedule(*engine, {1}, kInt4Mass);
  EXPECT_EQ(engine->activate(schedule).code(), absl::StatusCode::kFailedPrecondition);
  Request request = scoring(*engine, text(100), Mode::kDense);
  request.attention = ScheduledAttention{.schedule = schedule};
  PendingReply pending;
  const auto refused = engine->submit(request, pending.sink());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), ::testing::HasSubstr("selection.int4_keys"));
  EXPECT_EQ(engine->activate(make_schedule(*engine, {1}, kMass)), absl::OkStatus());
}

// A request's ratio asks for a fixed share of the keys, whatever the schedule says.
TEST_P(EngineTest, RequestRatioReplacesTheMass) {
  const auto engine = make_engine(options());
  ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, kKeys)).ok());
  const Reply by_ratio = run(*engine, scoring(*engine, text(300), Mode::kSparse));
  SelectionSettings by_mass = kKeys;
  by_mass.ratio = 0.7;
  by_mass.mass = 0.99;
  ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, by_mass)).ok());
  Request request = scoring(*engine, text(300), Mode::kSparse);
  EXPECT_GT(largest_difference(by_ratio, run(*engine, request)), 0);
  std::get<ScheduledAttention>(request.attention).ratio = kKeys.ratio;
  expect_same(by_ratio, run(*engine, request), 0);
}

// ---- Batches ----

// Also with chunks cut to what a millisecond is expected to do: to other lengths in each run.
TEST_P(EngineTest, BatchedEqualsAlone) {
  for (const int32_t max_step_ms : {0, 1}) {
    EngineOptions with_limit = options();
    with_limit.max_step_ms = max_step_ms;
    const auto engine = make_engine(with_limit);
    ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, kKeys)).ok());
    std::vector<Request> requests;
    for (int32_t i = 0; i < 10; ++i) {
      const Mode mode = i % 2 == 0 ? Mode::kDense : Mode::kSparse;
      if (i < 5) {
        requests.push_back(greedy(*engine, text(37 + 61 * i, i), mode, 25));
      } else {
        requests.push_back(scoring(*engine, text(50 + 67 * i, i), mode, 1 + 10 * i));
      }
    }
    std::vector<PendingReply> pending(requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      ASSERT_TRUE(engine->submit(requests[i], pending[i].sink()).ok());
    }
    for (size_t i = 0; i < requests.size(); ++i) {
      const Reply together = pending[i].wait();
      // Where chunks end depends on when requests arrive. In f32 a row that is left alone in its
      // tile is added up in another order.
      const bool any_order = max_step_ms > 0 || GetParam().weights == "f32";
      expect_same(together, run(*engine, requests[i]),
                  any_order ? std::max(company_tolerance(), tolerance()) : company_tolerance());
    }
    const EngineStats stats = engine->stats();
    EXPECT_EQ(stats.free_blocks, stats.total_blocks);
    EXPECT_GT(stats.measured_step_seconds, 0);
    EXPECT_GT(stats.predicted_step_seconds, 0);
    EXPECT_GE(stats.step_prediction_error_seconds,
              std::abs(stats.predicted_step_seconds - stats.measured_step_seconds) * 0.999);
  }
}

TEST_P(EngineTest, ScoreEqualsGenerate) {
  const auto engine = make_engine(options());
  ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, kKeys)).ok());
  for (const Mode mode : {Mode::kDense, Mode::kSparse}) {
    const std::vector<Token> prompt = text(333);
    const Reply generated = run(*engine, greedy(*engine, prompt, mode, 60));
    ASSERT_EQ(generated.tokens.size(), 60u);
    std::vector<Token> all = prompt;
    for (const Token token : generated.ids()) all.push_back(token);
    const Reply scored =
        run(*engine, scoring(*engine, all, mode, static_cast<int32_t>(prompt.size())));
    ASSERT_EQ(scored.tokens.size(), 60u);
    for (size_t i = 0; i < 60; ++i) {
      EXPECT_NEAR(scored.tokens[i].logprob, generated.tokens[i].logprob,
                  std::max(tolerance(), 1e-6));
      EXPECT_TRUE(scored.tokens[i].is_top1);
    }
  }
}

TEST_P(EngineTest, CompareEqualsSeparateRuns) {
  const auto engine = make_engine(options());
  ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, kKeys)).ok());
  Request request = scoring(*engine, text(400), Mode::kCompare);
  std::get<Score>(request.task).want_ranks = true;
  const Reply both = run(*engine, request);
  const Reply dense = run(*engine, scoring(*engine, text(400), Mode::kDense));
  const Reply sparse = run(*engine, scoring(*engine, text(400), Mode::kSparse));
  expect_same(both, dense, tolerance());
  ASSERT_EQ(both.comparisons.size(), sparse.tokens.size());
  double kl = 0;
  for (size_t i = 0; i < sparse.tokens.size(); ++i) {
    EXPECT_NEAR(both.comparisons[i].second.logprob, sparse.tokens[i].logprob, tolerance());
    EXPECT_GE(both.comparisons[i].kl, 0);
    EXPECT_EQ(both.tokens[i].rank == 1, both.tokens[i].is_top1);
    kl += both.comparisons[i].kl;
  }
  EXPECT_GT(kl, 0);
  EXPECT_EQ(both.finish.counts.back().attended, sparse.finish.counts.back().attended);
}

// Causality: tokens after a row (per-query selection) or after its tile (per-tile selection) must
// not change its result.
TEST_P(EngineTest, FutureTokensNeverMatter) {
  const auto engine = make_engine(options());
  std::vector<Token> changed = text(512);
  for (size_t i = 400; i < changed.size(); ++i) changed[i] = 255 - changed[i];
  for (const SelectionSettings& rule : {kKeys, kTiles}) {
    ASSERT_TRUE(engine->activate(make_schedule(*engine, {1}, rule)).ok());
    for (const auto granularity :
         {SelectionGranularity::kPerQuery, SelectionGranularity::kPerTile}) {
      Request a = scoring(*engine, text(512), Mode::kSparse);
      std::get<Score>(a.task).granularity = granularity;
      Request b = a;
      b.tokens = changed;
      const Reply first = run(*engine, a);
      const Reply second = run(*engine, b);
      for (size_t i = 0; i + 1 < 400; ++i) {  // entry i is token i + 1, of row i
        EXPECT_NEAR(first.tokens[i].logprob, second.tokens[i].logprob, company_tolerance()) << i;
      }
      EXPECT_GT(largest_difference(first, second), 0);
    }
  }
}

TEST_P(EngineTest, PreemptedEqualsAlone) {
  const auto roomy = make_engine(options());
  EngineOptions tight = options();
  tight.kv_memory_bytes = 24 * tight.block_size * cache_bytes_per_token(*roomy);
  const auto engine = make_engine(tight);
  const AttentionChoice choices[] = {
      DenseAttention{}, ScheduledAttention{.schedule = make_schedule(*engine, {1}, kKeys)},
      ScheduledAttention{.schedule = make_schedule(*engine, {1}, kLateInt4Mass)}};
  std::vector<Request> requests;
  for (int32_t i = 0; i < 6; ++i) {
    requests.push_back(greedy(*engine, text(100 + i, i), Mode::kDense, 250));
    requests.push_back(scoring(*engine, text(400 + i, i), Mode::kDense, 50));
    for (size_t last = requests.size(); last > requests.size() - 2; --last) {
      requests[last - 1].attention = choices[i % 3];
    }
  }
  std::vector<PendingReply> pending(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(engine->submit(requests[i], pending[i].sink()).ok());
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    expect_same(pending[i].wait(), run(*roomy, requests[i]), tolerance());
  }
  EXPECT_GT(engine->stats().preemptions, 0);
  EXPECT_EQ(engine->stats().free_blocks, engine->stats().total_blocks);
}

TEST_P(EngineTest, EveryLayerOfAStepIsCounted) {
  const auto engine = make_engine(options());
  run(*engine, greedy(*engine, text(300), Mode::kDense, 3));
  EXPECT_EQ(engine->layers_computed(), 4 * engine->stats().steps);
  EXPECT_EQ(engine->stats().waiting, 0);
}

TEST_P(EngineTest, CancelFreesBlocks) {
  const auto engine = make_engine(options());
  PendingReply pending;
  const auto id = engine->submit(greedy(*engine, text(300), Mode::kDense, 400), pending.sink());
  ASSERT_TRUE(id.ok());
  while (!pending.started()) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_LT(engine->stats().free_blocks, engine->stats().total_blocks);
  engine->cancel(*id);
  EXPECT_EQ(pending.wait().finish.reason, FinishReason::kCancelled);
  engine->cancel(*id);  // idempotent
  EXPECT_EQ(engine->stats().free_blocks, engine->stats().total_blocks);
}

TEST_P(EngineTest, CancelInsideTheSinkStopsAtOnce) {
  const auto engine = make_engine(options());
  std::atomic<int> tokens = 0;
  std::atomic<bool> done = false;
  ASSERT_TRUE(engine
                  ->submit(greedy(*engine, text(20), Mode::kDense, 100),
                           [&](const Event& event) {
                             tokens += static_cast<int>(event.tokens.size());
                             if (tokens == 3) engine->cancel(event.seq);
                             if (event.finish) done = true;
                           })
                  .ok());
  while (!done) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(tokens, 3);
}

TEST_P(EngineTest, DeadlineEndsARequest) {
  const auto engine = make_engine(options());
  Request request = greedy(*engine, text(20), Mode::kDense, 700);
  request.deadline = absl::Now() + absl::Milliseconds(1);
  const Reply reply = run(*engine, request);
  EXPECT_EQ(reply.finish.reason, FinishReason::kDeadline);
  EXPECT_TRUE(absl::IsDeadlineExceeded(reply.finish.status)) << reply.finish.status;
}

TEST_P(EngineTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  const auto engine = make_engine(options());
  PendingReply pending;
  ASSERT_TRUE(engine->submit(greedy(*engine, text(20), Mode::kDense, 50), pending.sink()).ok());
  engine->drain(absl::Seconds(60));
  EXPECT_EQ(pending.wait().finish.reason, FinishReason::kMaxTokens);
  const auto refused =
      engine->submit(greedy(*engine, text(20), Mode::kDense, 5), [](const Event&) {});
  EXPECT_TRUE(absl::IsUnavailable(refused.status())) << refused.status();
}

// The later windows of a long text: past a full queue and while draining.
TEST_P(EngineTest, ContinuedRequestsAreTakenInWhileDraining) {
  const auto engine = make_engine(options());
  std::atomic<bool> continued = false;
  PendingReply second;
  ASSERT_TRUE(engine
                  ->submit(greedy(*engine, text(20), Mode::kDense, 200),
                           [&](const Event& event) {
                             if (!event.finish) return;
                             Request next = greedy(*engine, text(20), Mode::kDense, 5);
                             const auto id =
                                 engine->submit(next, {.is_continuation = true}, second.sink());
                             continued = id.ok();
                           })
                  .ok());
  engine->drain(absl::Seconds(60));
  EXPECT_TRUE(continued);
  EXPECT_EQ(second.wait().finish.reason, FinishReason::kMaxTokens);
}

TEST_P(EngineTest, RequestCarriesItsSchedule) {
  const auto engine = make_engine(options());
  const auto own = make_schedule(*engine, {1}, kKeys);
  Request request = scoring(*engine, text(300), Mode::kDense);
  request.attention = ScheduledAttention{.schedule = own};
  const Reply carried = run(*engine, request);
  ASSERT_TRUE(engine->activate(own).ok());
  expect_same(carried, run(*engine, scoring(*engine, text(300), Mode::kSparse)), 0);
  EXPECT_LT(carried.finish.counts.back().attended, carried.finish.counts.back().causal);
}

// Any two choices can be compared; each run has its own counts.
TEST_P(EngineTest, ComparesTwoSchedules) {
  const auto engine = make_engine(options());
  Request request = scoring(*engine, text(400), Mode::kDense);
  request.attention = ScheduledAttention{.schedule = make_schedule(*engine, {1}, kKeys)};
  const Reply first = run(*engine, request);
  request.attention = ScheduledAttention{.schedule = make_schedule(*engine, {2}, kTiles)};
  const Reply second = run(*engine, request);
  request.compared_with = std::exchange(
      request.attention, ScheduledAttention{.schedule = make_schedule(*engine, {1}, kKeys)});
  const Reply both = run(*engine, request);
  expect_same(both, first, tolerance());
  ASSERT_EQ(both.comparisons.size(), second.tokens.size());
  for (size_t i = 0; i < second.tokens.size(); ++i) {
    EXPECT_NEAR(both.comparisons[i].second.logprob, second.tokens[i].logprob, tolerance());
  }
  ASSERT_EQ(both.finish.counts.size(), 2u);
  EXPECT_EQ(both.finish.counts[0].attended, first.finish.counts[0].attended);
  EXPECT_EQ(both.finish.counts[1].attended, second.finish.counts[0].attended);
}

TEST_P(EngineTest, DenseComparedWithItselfDiffersNowhere) {
  const auto engine = make_engine(options());
  Request request = scoring(*engine, text(200), Mode::kDense);
  request.compared_with = DenseAttention{};
  const Reply both = run(*engine, request);
  for (size_t i = 0; i < both.tokens.size(); ++i) {
    EXPECT_EQ(both.comparisons[i].second.logprob, both.tokens[i].logprob);
    EXPECT_EQ(both.comparisons[i].kl, 0);
    EXPECT_TRUE(both.comparisons[i].same_top1);
  }
}

TEST_P(EngineTest, ActivatesOnlyItsOwnModelsSchedules) {
  const auto engine = make_engine(options());
  const auto schedule = make_schedule(*engine, {1}, kKeys);
  for (const std::string& digest : {std::string(), std::string(64, 'a')}) {
    schedule->model.config_digest = digest;
    const absl::Status status = engine->activate(schedule);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("model.config_digest"));
  }
  EXPECT_EQ(engine->active_schedule(), nullptr);
}

TEST_P(EngineTest, RunningSequenceKeepsItsSchedule) {
  const auto engine = make_engine(options());
  const auto first = make_schedule(*engine, {1}, kKeys);
  const auto second = make_schedule(*engine, {2}, kTiles);
  ASSERT_NE(first->schedule_id, second->schedule_id);
  ASSERT_TRUE(engine->activate(first).ok());
  const Reply alone = run(*engine, greedy(*engine, text(200), Mode::kSparse, 80));
  // The sequence is held at its first token, on the engine's thread, until the schedule has
  // changed: what it computes from then on would be the second schedule's if the engine looked it
  // up.
  absl::Notification at_first_token;
  absl::Notification changed;
  PendingReply pending;
  const EventSink hold = [&, collect = pending.sink()](const Event& event) {
    if (!at_first_token.HasBeenNotified()) at_first_token.Notify();
    changed.WaitForNotification();
    collect(event);
  };
  ASSERT_TRUE(engine->submit(greedy(*engine, text(200), Mode::kSparse, 80), hold).ok());
  at_first_token.WaitForNotification();
  EXPECT_TRUE(engine->activate(second).ok());
  EXPECT_EQ(engine->active_schedule()->schedule_id, second->schedule_id);
  changed.Notify();
  const Reply kept = pending.wait();
  expect_same(alone, kept, company_tolerance());
  EXPECT_EQ(kept.finish.counts.back().attended, alone.finish.counts.back().attended);
  const Reply otherwise = run(*engine, greedy(*engine, text(200), Mode::kSparse, 80));
  EXPECT_NE(otherwise.finish.counts.back().attended, alone.finish.counts.back().attended);
  const Reply later = run(*engine, scoring(*engine, text(200), Mode::kSparse));
  Request by_second = scoring(*engine, text(200), Mode::kDense);
  by_second.attention = ScheduledAttention{.schedule = second};
  expect_same(later, run(*engine, by_second), 0);
}

TEST_P(EngineTest, StopTokenAndLimits) {
  const auto engine = make_engine(options());
  const Reply free_run = run(*engine, greedy(*engine, text(30), Mode::kDense, 20));
  ASSERT_EQ(free_run.finish.reason, FinishReason::kMaxTokens);
  Request request = greedy(*engine, text(30), Mode::kDense, 20);
  std::get<Generate>(request.task).stop_tokens = {free_run.tokens[4].token};
  const Reply stopped = run(*engine, request);
  EXPECT_EQ(stopped.finish.reason, FinishReason::kStopToken);
  EXPECT_LE(stopped.tokens.size(), 5u);
  const Reply full = run(*engine, greedy(*engine, text(760), Mode::kDense, 100));
  EXPECT_EQ(full.finish.reason, FinishReason::kContextLength);
  EXPECT_EQ(full.tokens.size(), 8u);
}

TEST_P(EngineTest, BadRequestsNameTheField) {
  const auto engine = make_engine(options());
  struct Case {
    Request request;
    absl::StatusCode code;
    std::string text;
  };
  Request nan = greedy(*engine, text(5), Mode::kDense, 5);
  std::get<Generate>(nan.task).sampling.temperature = std::nan("");
  Request ratio = scoring(*engine, text(5), Mode::kDense);
  ratio.attention =
      ScheduledAttention{.schedule = make_schedule(*engine, {1}, kKeys), .ratio = 1.5};
  const std::vector<Case> cases = {
      {greedy(*engine, {}, Mode::kDense, 5), absl::StatusCode::kInvalidArgument, "tokens"},
      {greedy(*engine, {1, 2, 99999}, Mode::kDense, 5), absl::StatusCode::kInvalidArgument,
       "99999"},
      {greedy(*engine, {-1}, Mode::kDense, 5), absl::StatusCode::kInvalidArgument, "-1"},
      {greedy(*engine, text(768), Mode::kDense, 5), absl::StatusCode::kInvalidArgument, "767"},
      {scoring(*engine, text(770), Mode::kDense), absl::StatusCode::kInvalidArgument, "769"},
      {scoring(*engine, text(1), Mode::kDense), absl::StatusCode::kInvalidArgument, "first_scored"},
      {scoring(*engine, text(9), Mode::kSparse), absl::StatusCode::kFailedPrecondition, "schedule"},
      {nan, absl::StatusCode::kInvalidArgument, "temperature"},
      {ratio, absl::StatusCode::kInvalidArgument, "ratio"},
  };
  for (const Case& bad : cases) {
    const auto id = engine->submit(bad.request, [](const Event&) { FAIL(); });
    EXPECT_EQ(id.status().code(), bad.code) << id.status();
    EXPECT_THAT(std::string(id.status().message()), ::testing::HasSubstr(bad.text));
  }
  EXPECT_EQ(engine->stats().free_blocks, engine->stats().total_blocks);
}

TEST_P(EngineTest, AnAdmittedRequestHasItsPlaceBeforeItIsSubmitted) {
  EngineOptions tight = options();
  tight.max_queue = 1;
  const auto engine = make_engine(tight);
  const Request request = greedy(*engine, text(50), Mode::kDense, 5);
  auto first = engine->admit(request, {});
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(absl::IsResourceExhausted(engine->admit(request, {}).status()));
  EXPECT_TRUE(engine->admit(request, {.priority = Priority::kBatch}).ok()) << "a queue of its own";
  EXPECT_TRUE(engine->admit(request, {.is_continuation = true}).ok());
  {
    const AdmittedRequest unused = *std::move(first);
  }
  auto second = engine->admit(request, {});
  ASSERT_TRUE(second.ok()) << second.status();
  // Draining waits for it.
  PendingReply reply;
  std::thread drained([&] { engine->drain(absl::Seconds(60)); });
  while (!absl::IsUnavailable(engine->admit(request, {}).status())) std::this_thread::yield();
  ASSERT_TRUE(engine->submit(request, *std::move(second), reply.sink()).ok());
  EXPECT_TRUE(reply.wait().finish.status.ok());
  drained.join();
}

TEST_P(EngineTest, QueueFullAndNeverFits) {
  EngineOptions tight = options();
  tight.max_queue = 2;
  tight.kv_memory_bytes = 10 * tight.block_size * cache_bytes_per_token(*make_engine(options()));
  const auto engine = make_engine(tight);
  const auto never =
      engine->submit(greedy(*engine, text(700), Mode::kDense, 5), [](const Event&) { FAIL(); });
  EXPECT_TRUE(absl::IsFailedPrecondition(never.status())) << never.status();
  std::vector<PendingReply> pending(12);
  int refused = 0;
  std::vector<size_t> accepted;
  for (size_t i = 0; i < pending.size(); ++i) {
    const auto id = engine->submit(greedy(*engine, text(150), Mode::kDense, 60), pending[i].sink());
    if (id.ok()) accepted.push_back(i);
    refused += absl::IsResourceExhausted(id.status());
  }
  EXPECT_GT(refused, 0);
  for (const size_t i : accepted) pending[i].wait();
}

INSTANTIATE_TEST_SUITE_P(Backends, EngineTest,
                         ::testing::Values(EngineCase{"reference", "f32"}, EngineCase{"cpu", "f32"},
                                           EngineCase{"cpu", "bf16"}, EngineCase{"cpu", "int8"},
                                           EngineCase{"cpu", "int4"}, EngineCase{"cpu", "native"},
                                           EngineCase{"reference", "native"},
                                           EngineCase{"reference", "f32", "int8"},
                                           EngineCase{"far_memory", "f32"},
                                           EngineCase{"far_memory", "f32", "int8"},
                                           EngineCase{"cpu", "bf16", "int8"}),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace kascade::testing
