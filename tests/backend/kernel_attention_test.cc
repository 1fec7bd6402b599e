// Tests attention, pooling and selection of each backend against the reference, for the shapes of
// kernel_cases.h.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "engine/backend/host/host_buffer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/backends_under_test.h"
#include "tests/support/compare.h"
#include "tests/support/kernel_cases.h"

namespace kascade::testing {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// How far a probability may be off, relative to itself, when it was computed twice (here and in the
// reference). A logit is a sum of D products, scaled: off by δ = (D + 3) · u · |q||k|/√D. A shift
// of each logit by up to δ changes a probability by at most e^{2δ}; the exponential adds 4u (2
// ulp), the sum over n keys n · u, its rescaling from block to block 6u per 64 keys, the division
// u.
double probability_error(const AttentionData& data) {
  double largest_q = 0, largest_k = 0;
  for (int64_t row = 0; row < data.q.rows; ++row) {
    const float* q = data.q.f32(row);
    for (int64_t head = 0; head < data.q.cols; head += data.cache.keys.cols) {
      double squares = 0;
      for (int64_t d = 0; d < data.cache.keys.cols; ++d) squares += 1.0 * q[head + d] * q[head + d];
      largest_q = std::max(largest_q, squares);
    }
  }
  for (int64_t row = 0; row < data.cache.keys.rows; ++row) {
    double squares = 0;
    for (int64_t d = 0; d < data.cache.keys.cols; ++d) {
      const double k = data.cache.keys.dtype == DType::kF32
                           ? data.cache.keys.f32(row)[d]
                           : from_bf16(data.cache.keys.bf16(row)[d]);
      squares += k * k;
    }
    if (squares > largest_k) largest_k = squares;  // false for the NaN of unused slots
  }
  const auto dim = static_cast<double>(data.cache.keys.cols);
  const double n = *std::max_element(data.batch.positions.begin(), data.batch.positions.end()) + 1;
  const double logit = (dim + 3) * kUnit * std::sqrt(largest_q * largest_k / dim);
  return 2 * (std::expm1(2 * logit) + (n * (1 + 6.0 / 64) + 16) * kUnit);
}

// The same cache with |v|: attending to it gives Σ p·|v|, what errors of Σ p·v are in proportion
// to.
struct AbsoluteValues {
  explicit AbsoluteValues(LayerCache from)
      : values(from.values.dtype, from.values.rows, from.values.cols), cache(from) {
    cache.values = values.view();
    for (int64_t row = 0; row < from.values.rows; ++row) {
      for (int64_t d = 0; d < from.values.cols; ++d) {
        if (from.values.dtype == DType::kF32) {
          cache.values.f32(row)[d] = std::abs(from.values.f32(row)[d]);
        } else {
          cache.values.bf16(row)[d] = from.values.bf16(row)[d] & 0x7fffu;
        }
      }
    }
  }
  HostBuffer values;
  LayerCache cache;
};

// What the bf16 dot product makes of q: scaled by log₂ e / √D, rounded, and here scaled back. The
// rest of such a kernel computes in f32 what the reference does with this q.
HostBuffer narrowed_q(const AttentionData& data) {
  const float scale = 1.44269504f / std::sqrt(static_cast<float>(data.cache.keys.cols));
  HostBuffer q(DType::kF32, data.q.rows, data.q.cols);
  for (int64_t row = 0; row < data.q.rows; ++row) {
    for (int64_t i = 0; i < data.q.cols; ++i) {
      q.view().f32(row)[i] = from_bf16(to_bf16(data.q.f32(row)[i] * scale)) / scale;
    }
  }
  return q;
}

// By how much the bf16 kernels' powers of two may be off, relative to themselves.
constexpr double kRoughPower = 1.1e-4;

class AttentionTest : public CpuTest {
 protected:
  bool multiplies_bf16() const {
    return dtype() == DType::kBF16 && std::string(GetParam().kernels->isa) == "avx512bf16";
  }

  void expect_attends_like_reference(const AttentionData& data, const KeySet& keys,
                                     const std::string& what) {
    const int64_t rows = data.batch.rows(), width = data.width();
    const HostBuffer out(DType::kF32, rows, width), expected(DType::kF32, rows, width);
    const HostBuffer size(DType::kF32, rows, width);
    const AbsoluteValues absolute(data.cache);
    const HostBuffer narrow = narrowed_q(data);
    const Tensor q = multiplies_bf16() ? narrow.view() : data.q;
    backend_->attend(data.q, data.cache, data.step(), data.tiles(), keys, out.view());
    reference_->attend(q, data.cache, data.step(), data.tiles(), keys, expected.view());
    reference_->attend(q, absolute.cache, data.step(), data.tiles(), keys, size.view());
    const double n =
        *std::max_element(data.batch.positions.begin(), data.batch.positions.end()) + 1;
    // And Σ p·v on either side. Rounded p stand above and below the division, as do rough powers.
    const double relative = probability_error(data) + 2 * n * kUnit +
                            (multiplies_bf16() ? 2 * (kUnitBf16 + kRoughPower) : 0);
    expect_close(
        out.view(), expected.view(),
        [&](int64_t row, int64_t col) { return relative * size.view().f32(row)[col]; }, what);
  }
};

std::string name_of(const AttentionCase& shape) {
  return std::to_string(shape.kv_heads) + " KV heads × " + std::to_string(shape.group) + " × " +
         std::to_string(shape.dim) + ", blocks of " + std::to_string(shape.block_size);
}

TEST_P(AttentionTest, Dense) {
  for (const AttentionCase& shape : attention_cases()) {
    const AttentionData data(shape, dtype());
    expect_attends_like_reference(data, {}, "dense " + name_of(shape));
  }
}

TEST_P(AttentionTest, Sparse) {
  for (const AttentionCase& shape : attention_cases()) {
    AttentionData data(shape, dtype());
    const HostSelection selection = data.random_selection();
    expect_attends_like_reference(data, {&selection, {}}, "sparse " + name_of(shape));
  }
}

TEST_P(AttentionTest, SparseThroughAHeadMap) {
  AttentionData data(
      {.kv_heads = 4, .group = 2, .dim = 16, .rule = small_rule(), .sequences = kSomeSequences},
      dtype());
  const HostSelection selection = data.random_selection();
  for (const std::vector<int32_t>& map :
       {std::vector<int32_t>{2, 2, 2, 2}, {3, 2, 1, 0}, {0, 0, 3, 3}}) {
    expect_attends_like_reference(data, {&selection, map}, "mapped");
  }
}

TEST_P(AttentionTest, NothingSelected) {
  AttentionData data({.dim = 32, .rule = small_rule(), .sequences = kSomeSequences}, dtype());
  HostSelection selection;
  backend_->select_none(data.cache, data.step(), data.tiles(), selection);
  expect_attends_like_reference(data, {&selection, {}}, "own tile only");

  // Without an own tile either there is nothing to attend to: the output is 0.
  for (int32_t tile = 0; tile < data.batch.tiles(); ++tile) {
    data.batch.candidate_begin[tile] = 0;
    data.batch.candidate_end[tile] = data.last_position(tile) + 1;
  }
  const TileRange last{data.batch.tiles() - 2, 1};
  ASSERT_EQ(data.batch.positions[data.batch.tile_start[last.begin]], 657);
  Random random(10);
  const HostBuffer out = normal_matrix(DType::kF32, data.batch.rows(), data.width(), random);
  backend_->select_none(data.cache, data.step(), last, selection);
  backend_->attend(data.q, data.cache, data.step(), last, {&selection, {}}, out.view());
  const float* row = out.view().f32(data.batch.tile_start[last.begin]);
  EXPECT_TRUE(std::all_of(row, row + data.width(), [](float value) { return value == 0; }));
}

TEST_P(AttentionTest, HugeLogits) {
  AttentionData data({.dim = 64, .sequences = {{0, 40}, {70, 1, true}}}, dtype());
  for (int64_t row = 0; row < data.q.rows; ++row) {
    for (int64_t i = 0; i < data.q.cols; ++i) data.q.f32(row)[i] *= 2000;  // logits of ±10⁴
  }
  expect_attends_like_reference(data, {}, "huge logits");
}

TEST_P(AttentionTest, UnselectedKeysAreNotRead) {
  for (const bool per_query : {false, true}) {
    const AttentionCase shape{.rule = small_rule(),
                              .sequences = {{320, per_query ? 1 : 20, per_query}}};
    AttentionData data(shape, dtype());
    const HostSelection selection = data.random_selection();
    for (int32_t g = 0; g < shape.kv_heads; ++g) {
      const auto keys = selection.read(0, g);
      for (int32_t key = 0; key < data.batch.candidate_end[0]; ++key) {
        if (std::binary_search(keys.begin(), keys.end(), key)) continue;
        data.set(data.cache.keys, data.cache_row(0, g, key), kNaN);
        data.set(data.cache.values, data.cache_row(0, g, key), kNaN);
      }
    }
    const HostBuffer out(DType::kF32, data.batch.rows(), data.width());
    backend_->attend(data.q, data.cache, data.step(), data.tiles(), {&selection, {}}, out.view());
    const float* first = out.view().f32(0);
    EXPECT_TRUE(std::none_of(first, first + data.batch.rows() * data.width(),
                             [](float value) { return std::isnan(value); }));
  }
}

TEST_P(AttentionTest, ATileDoesNotDependOnTheOthers) {
  const AttentionData data({.rule = small_rule(), .sequences = kSomeSequences}, dtype());
  const HostBuffer all(DType::kF32, data.batch.rows(), data.width());
  const HostBuffer one(DType::kF32, data.batch.rows(), data.width());
  backend_->attend(data.q, data.cache, data.step(), data.tiles(), {}, all.view());
  for (int32_t tile = data.batch.tiles() - 1; tile >= 0; --tile) {
    backend_->attend(data.q, data.cache, data.step(), {tile, 1}, {}, one.view());
  }
  expect_close(one.view(), all.view(), [](int64_t, int64_t) { return 0; }, "tile by tile");
}

// An int8 cache as the f32 or bf16 one that it stands for.
struct WidenedCache {
  WidenedCache(LayerCache from, DType as)
      : keys(widened(from.keys, as)), values(widened(from.values, as)), cache(from) {
    cache.keys = keys.view();
    cache.values = values.view();
  }
  static HostBuffer widened(Tensor from, DType as) {
    HostBuffer to(as, from.rows, from.cols);
    std::vector<float> row_values(static_cast<size_t>(from.cols));
    for (int64_t row = 0; row < from.rows; ++row) {
      read_int8_row(from, row, row_values.data());
      for (int64_t d = 0; d < from.cols; ++d) {
        if (as == DType::kF32) to.view().f32(row)[d] = row_values[d];
        if (as == DType::kBF16) to.view().bf16(row)[d] = to_bf16(row_values[d]);
      }
    }
    return to;
  }
  HostBuffer keys, values;
  LayerCache cache;
};

constexpr Pooling kPoolings[] = {Pooling::kSum, Pooling::kMax, Pooling::kLastRowMax,
                                 Pooling::kLastRowSum};

// Relative error of a pooled score: of its probabilities, and of their sum over `group` heads and
// at most 32 rows.
double score_error(const AttentionData& data, const AttentionCase& shape, bool bf16) {
  return probability_error(data) + 2 * 32 * shape.group * kUnit +
         (bf16 ? 2 * (kUnitBf16 + kRoughPower) : 0);
}

TEST_P(AttentionTest, PoolScores) {
  Random random(11);
  for (const AttentionCase& shape : attention_cases()) {
    const AttentionData data(shape, dtype());
    const double relative = score_error(data, shape, multiplies_bf16());
    const HostBuffer narrow = narrowed_q(data);
    const Tensor q = multiplies_bf16() ? narrow.view() : data.q;
    for (const Pooling pooling : kPoolings) {
      for (int32_t tile = 0; tile < data.batch.tiles(); ++tile) {
        const int64_t keys = data.last_position(tile) + 1;
        const HostBuffer wide = normal_matrix(DType::kF32, shape.kv_heads, keys + 3, random);
        const HostBuffer expected(DType::kF32, shape.kv_heads, keys);
        const float beyond = wide.view().f32(0)[keys];
        backend_->pool_scores(data.q, data.cache, data.step(), tile, pooling, wide.view());
        reference_->pool_scores(q, data.cache, data.step(), tile, pooling, expected.view());
        EXPECT_EQ(wide.view().f32(0)[keys], beyond) << "written past the last key";
        // Probabilities below the smallest normal number may vanish in either.
        expect_close(
            wide.view().slice_cols(0, keys), expected.view(),
            [&](int64_t g, int64_t key) {
              return relative * expected.view().f32(g)[key] + 32 * shape.group * kSmallest;
            },
            name_of(shape) + " tile " + std::to_string(tile));
      }
    }
  }
}

// A set is right when it holds all scores clearly above the threshold and none clearly below, the
// threshold being the lowest score that the reference chose.
void expect_chosen(std::span<const int32_t> keys, const std::vector<float>& ranks,
                   const Candidates& from, double error) {
  ASSERT_EQ(static_cast<int32_t>(keys.size()), from.budget);
  ASSERT_TRUE(std::is_sorted(keys.begin(), keys.end()));
  ASSERT_EQ(std::set<int32_t>(keys.begin(), keys.end()).size(), keys.size());
  if (from.budget == 0) return;
  ASSERT_GE(keys.front(), from.begin);
  ASSERT_LT(keys.back(), from.end);
  std::vector<float> sorted(ranks.begin() + from.begin, ranks.begin() + from.end);
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  const double threshold = sorted[static_cast<size_t>(from.budget - 1)];
  for (int32_t key = from.begin; key < from.end; ++key) {
    const bool chosen = std::binary_search(keys.begin(), keys.end(), key);
    // Both scores compared may be off by `error`.
    const double margin = 2.1 * error * threshold + kSmallest;
    EXPECT_TRUE(chosen || ranks[key] <= threshold + margin) << key;
    EXPECT_TRUE(!chosen || ranks[key] >= threshold - margin) << key;
  }
}

// All heads' scores into those of the first.
void pool_all(Tensor scores, bool largest) {
  for (int64_t g = 1; g < scores.rows; ++g) {
    for (int64_t key = 0; key < scores.cols; ++key) {
      float& pooled = scores.f32(0)[key];
      const float own = scores.f32(g)[key];
      pooled = largest ? std::max(pooled, own) : pooled + own;
    }
  }
}

class SelectionTest : public AttentionTest {
 protected:
  void expect_selects_well(const AttentionCase& shape, const SelectOptions& how) {
    const AttentionData data(shape, dtype());
    const double error = score_error(data, shape, multiplies_bf16());
    const HostBuffer narrow = narrowed_q(data);
    const Tensor q = multiplies_bf16() ? narrow.view() : data.q;
    HostSelection selection;
    backend_->select_keys(data.q, data.cache, data.step(), data.tiles(), how, selection);
    for (int32_t tile = 0; tile < data.batch.tiles(); ++tile) {
      const int32_t keys = data.last_position(tile) + 1;
      const HostBuffer scores(DType::kF32, shape.kv_heads, keys);
      reference_->pool_scores(q, data.cache, data.step(), tile, how.pooling, scores.view());
      if (how.all_heads) pool_all(scores.view(), how.pooling == Pooling::kMax);
      for (int32_t g = 0; g < shape.kv_heads; ++g) {
        const float* of_head = scores.view().f32(how.all_heads ? 0 : g);
        std::vector<float> ranks(of_head, of_head + keys);
        for (int32_t unit = 0; unit + how.unit <= keys; unit += how.unit) {
          const float best =
              *std::max_element(ranks.begin() + unit, ranks.begin() + unit + how.unit);
          std::fill_n(ranks.begin() + unit, how.unit, best);
        }
        expect_chosen(selection.read(tile, g), ranks,
                      {data.batch.candidate_begin[tile], data.batch.candidate_end[tile],
                       data.batch.budget[tile]},
                      error);
      }
    }
  }
};

TEST_P(SelectionTest, TakesTheBest) {
  for (const AttentionCase& shape : attention_cases()) {
    for (const Pooling pooling : kPoolings) expect_selects_well(shape, {pooling, 1});
  }
}

TEST_P(SelectionTest, TakesWholeUnits) {
  const AttentionCase shape{.rule = {.family = Family::kTile, .query_tile = 16, .top_k = 3},
                            .sequences = kSomeSequences};
  expect_selects_well(shape, {Pooling::kLastRowMax, 16});
}

TEST_P(SelectionTest, TakesTheBestForAllHeads) {
  for (const AttentionCase& shape : attention_cases()) {
    for (const Pooling pooling : {Pooling::kSum, Pooling::kMax}) {
      expect_selects_well(shape, {pooling, 1, /*all_heads=*/true});
    }
  }
}

// With one KV head there is nothing to pool, and with one row and one query head sum and largest
// are the same.
TEST_P(SelectionTest, WaysToPoolAgreeWhereThereIsNothingToPool) {
  const AttentionCase one_kv_head{
      .kv_heads = 1, .group = 3, .dim = 16, .rule = small_rule(), .sequences = kSomeSequences};
  const AttentionCase one_query{.kv_heads = 3,
                                .group = 1,
                                .dim = 16,
                                .rule = small_rule(),
                                .sequences = {{300, 2, true}, {657, 1, true}}};
  const struct {
    const AttentionCase& shape;
    SelectOptions a, b;
  } pairs[] = {{one_kv_head, {Pooling::kSum}, {Pooling::kSum, 1, true}},
               {one_kv_head, {Pooling::kMax}, {Pooling::kMax, 1, true}},
               {one_query, {Pooling::kSum}, {Pooling::kMax}}};
  for (const auto& [shape, a, b] : pairs) {
    const AttentionData data(shape, dtype());
    HostSelection first, second;
    backend_->select_keys(data.q, data.cache, data.step(), data.tiles(), a, first);
    backend_->select_keys(data.q, data.cache, data.step(), data.tiles(), b, second);
    EXPECT_EQ(all_keys(first), all_keys(second));
  }
}

// By the same additions in the same order.
void expect_same_pages(Backend& backend, Backend& reference, DType cache) {
  for (const AttentionCase& shape : attention_cases()) {
    if (shape.rule.sink_keys > 0 || !shape.rule.decode_own_tile) continue;  // no whole pages
    for (const int32_t page : {1, 2, 16}) {
      AttentionData data(shape, cache);
      for (int32_t& budget : data.batch.budget) budget -= budget % page;
      HostSelection selection, expected;
      backend.select_pages(data.q, data.cache, data.step(), data.tiles(), page, selection);
      reference.select_pages(data.q, data.cache, data.step(), data.tiles(), page, expected);
      EXPECT_EQ(all_keys(selection), all_keys(expected)) << name_of(shape) << " pages of " << page;
    }
  }
}

TEST_P(SelectionTest, TakesTheReferencesPages) {
  expect_same_pages(*backend_, *reference_, dtype());
}

TEST(Int8Cache, PagesAreTheReferences) {
  expect_same_pages(*cpu::make_cpu_backend({.threads = 3}), *make_reference_backend(),
                    DType::kInt8);
}

TEST_P(SelectionTest, EqualKeysGiveTheLowestIndices) {
  AttentionData data({.rule = small_rule(), .sequences = {{256, 20}, {300, 1, true}}}, dtype());
  for (int64_t row = 0; row < data.cache.keys.rows; ++row) data.set(data.cache.keys, row, 0.5f);
  HostSelection selection;
  backend_->select_keys(data.q, data.cache, data.step(), data.tiles(), {}, selection);
  for (int32_t tile = 0; tile < data.batch.tiles(); ++tile) {
    std::vector<int32_t> lowest(static_cast<size_t>(data.batch.budget[tile]));
    std::iota(lowest.begin(), lowest.end(), 0);
    for (int32_t g = 0; g < data.cache.kv_heads; ++g) {
      EXPECT_THAT(selection.read(tile, g), ::testing::ElementsAreArray(lowest));
    }
  }
}

TEST_P(SelectionTest, SurvivesNaN) {
  AttentionData data({.rule = small_rule(), .sequences = {{256, 20}, {300, 1, true}}}, dtype());
  std::fill_n(data.q.f32(0), data.q.rows * data.q.cols, kNaN);
  HostSelection selection;
  backend_->select_keys(data.q, data.cache, data.step(), data.tiles(), {}, selection);
  EXPECT_EQ(selection.read(0, 0).size(), static_cast<size_t>(data.batch.budget[0]));
}

INSTANTIATE_TEST_SUITE_P(Cpu, AttentionTest, ::testing::ValuesIn(backend_cases()), name_of_case);
INSTANTIATE_TEST_SUITE_P(Cpu, SelectionTest, ::testing::ValuesIn(backend_cases()), name_of_case);

// The same bits as over the numbers that the levels stand for, in the type that a set of kernels
// multiplies.
void expect_reads_int8(Backend& backend, DType as) {
  for (const AttentionCase& shape : attention_cases()) {
    AttentionData data(shape, DType::kInt8);
    const WidenedCache wide(data.cache, as);
    const HostSelection some = data.random_selection();
    const HostBuffer out(DType::kF32, data.batch.rows(), data.width());
    const HostBuffer expected(DType::kF32, data.batch.rows(), data.width());
    for (const KeySet& keys : {KeySet{}, KeySet{&some, {}}}) {
      backend.attend(data.q, data.cache, data.step(), data.tiles(), keys, out.view());
      backend.attend(data.q, wide.cache, data.step(), data.tiles(), keys, expected.view());
      expect_close(out.view(), expected.view(), [](int64_t, int64_t) { return 0; }, name_of(shape));
    }
    for (const Pooling pooling : {Pooling::kSum, Pooling::kLastRowMax}) {
      HostSelection chosen, expected_choice;
      const SelectOptions how{pooling, 1};
      backend.select_keys(data.q, data.cache, data.step(), data.tiles(), how, chosen);
      backend.select_keys(data.q, wide.cache, data.step(), data.tiles(), how, expected_choice);
      EXPECT_EQ(all_keys(chosen), all_keys(expected_choice)) << name_of(shape);
    }
  }
}

TEST(Int8Cache, EachSetOfKernelsReadsIt) {
  const cpu::Kernels* kernels[8];
  const int32_t sets = cpu::usable_kernels(kernels, 8);
  for (int32_t set = 0; set < sets; ++set) {
    SCOPED_TRACE(kernels[set]->isa);
    const auto backend = cpu::make_cpu_backend({.threads = 1, .kernels = kernels[set]});
    const bool bf16 = std::string(kernels[set]->isa) == "avx512bf16";
    expect_reads_int8(*backend, bf16 ? DType::kBF16 : DType::kF32);
  }
}

TEST(Int8Cache, TheReferenceReadsIt) { expect_reads_int8(*make_reference_backend(), DType::kF32); }

// The result must not depend on the number of threads.
TEST(WithThreads, SameBitsAsOneThread) {
  AttentionData data({.rule = small_rule(), .sequences = kSomeSequences}, DType::kF32);
  const auto one = cpu::make_cpu_backend({.threads = 1});
  const auto three = cpu::make_cpu_backend({.threads = 3});
  const HostBuffer a(DType::kF32, data.batch.rows(), data.width());
  const HostBuffer b(DType::kF32, data.batch.rows(), data.width());
  HostSelection chosen, also_chosen;
  one->select_keys(data.q, data.cache, data.step(), data.tiles(), {}, chosen);
  three->select_keys(data.q, data.cache, data.step(), data.tiles(), {}, also_chosen);
  EXPECT_EQ(all_keys(chosen), all_keys(also_chosen));
  one->attend(data.q, data.cache, data.step(), data.tiles(), {&chosen, {}}, a.view());
  three->attend(data.q, data.cache, data.step(), data.tiles(), {&chosen, {}}, b.view());
  expect_close(b.view(), a.view(), [](int64_t, int64_t) { return 0; }, "three threads");
}

// Nor on how many of them share a row of many keys.
TEST(WithThreads, LongRowsHaveTheSameBits) {
  const std::vector<SequenceRows> sequences = {{3 * cpu::kKeySplit + 70, 1, true},
                                               {2 * cpu::kKeySplit - 1, 1, true},
                                               {cpu::kKeySplit, 1, true},
                                               {2 * cpu::kKeySplit - 3, 5}};
  SelectionSettings rule;
  for (const DType dtype : {DType::kBF16, DType::kInt8}) {
    rule.sink_keys = dtype == DType::kInt8 ? 5 : 0;
    // Ten heads of tiles: one thread has enough of them to take each whole, five have not.
    AttentionData data({.kv_heads = 2, .group = 3, .dim = 32, .rule = rule, .sequences = sequences},
                       dtype);
    const HostSelection selection = data.random_selection();
    const auto one = cpu::make_cpu_backend({.threads = 1});
    const auto five = cpu::make_cpu_backend({.threads = 5});
    const HostBuffer whole(DType::kF32, data.batch.rows(), data.width());
    const HostBuffer shared(DType::kF32, data.batch.rows(), data.width());
    for (const KeySet& keys : {KeySet{}, KeySet{&selection, {}}}) {
      one->attend(data.q, data.cache, data.step(), data.tiles(), keys, whole.view());
      five->attend(data.q, data.cache, data.step(), data.tiles(), keys, shared.view());
      expect_close(shared.view(), whole.view(), [](int64_t, int64_t) { return 0; }, "shared");
    }
  }
}

}  // namespace
}  // namespace kascade::testing
