// Tests selections whose number of keys follows the scores (SelectOptions::mass) against the
// definition, written as plain loops, and the edges of that definition.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "engine/attention/kascade.h"
#include "engine/backend/cpu/cpu.h"
#include "engine/backend/host/select.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/backends_under_test.h"
#include "tests/support/compare.h"
#include "tests/support/kernel_cases.h"

namespace kascade::testing {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// The candidates in the order in which they are taken.
std::vector<int32_t> by_score(const float* scores, const Choice& choice) {
  std::vector<int32_t> keys(static_cast<size_t>(choice.end - choice.begin));
  std::iota(keys.begin(), keys.end(), choice.begin);
  const auto rank = [&](int32_t key) {
    return std::isnan(scores[key]) ? -std::numeric_limits<float>::infinity() : scores[key];
  };
  std::stable_sort(keys.begin(), keys.end(),
                   [&](int32_t a, int32_t b) { return rank(a) > rank(b); });
  return keys;
}

std::vector<int32_t> defined_choice(const float* scores, const Choice& choice) {
  std::vector<int32_t> keys = by_score(scores, choice);
  uint64_t total = 0, covered = 0;
  for (int32_t key = 0; key < choice.causal; ++key) {
    const uint64_t steps = score_in_steps(scores[key]);
    total += steps;
    if (key < choice.begin || key >= choice.end) covered += steps;
  }
  int32_t count = 0;
  while (count < choice.budget &&
         (count < choice.least || covered < steps_to_cover(choice.mass, total))) {
    covered += score_in_steps(scores[keys[static_cast<size_t>(count++)]]);
  }
  keys.resize(static_cast<size_t>(count));
  std::ranges::sort(keys);
  return keys;
}

void expect_as_defined(const std::vector<float>& scores, const Choice& choice,
                       const std::string& what) {
  const std::vector<int32_t> expected = defined_choice(scores.data(), choice);
  const cpu::Kernels* usable[8];
  const int32_t sets = cpu::usable_kernels(usable, 8);
  for (int32_t set = -1; set < sets; ++set) {
    ChoiceWorkspace workspace;
    constexpr int32_t kBeyond = -7;
    std::vector<int32_t> chosen(static_cast<size_t>(choice.budget) + 1, kBeyond);
    const int32_t count =
        choose_keys(scores.data(), choice, workspace, chosen.data(),
                    set < 0 ? kPlainChoice : *usable[static_cast<size_t>(set)]->choice);
    ASSERT_LE(count, choice.budget);
    EXPECT_EQ(chosen.back(), kBeyond) << "written past the budget";
    chosen.resize(static_cast<size_t>(count));
    ASSERT_EQ(chosen, expected) << what << ", mass " << choice.mass << ", " << choice.least
                                << " to " << choice.budget << " of " << scores.size() << ", set "
                                << set;
  }
}

// All candidates, some sinks and an own tile; all kinds of masses, least and most numbers.
void expect_every_choice_as_defined(const std::vector<float>& scores, const std::string& what) {
  const auto causal = static_cast<int32_t>(scores.size());
  for (const auto& [begin, end] : {std::pair{0, causal}, {3, causal - causal / 5}}) {
    if (begin >= end) continue;
    const int32_t count = end - begin;
    for (const double mass : {1e-9, 0.3, 0.9, 0.999, 1 - 1e-15}) {
      for (const int32_t least : {0, std::min(7, count - 1)}) {
        for (const int32_t budget : {least + 1, std::max(least + 1, count / 3), count}) {
          expect_as_defined(scores,
                            {.begin = begin,
                             .end = end,
                             .budget = budget,
                             .mass = mass,
                             .least = least,
                             .causal = causal},
                            what);
        }
      }
    }
  }
}

TEST(ChooseKeysByMass, SoftmaxScores) {
  std::mt19937 random(1);
  std::normal_distribution<float> logit(0, 3);
  for (const size_t keys : {1, 2, 5, 31, 33, 1000, 8192, 40000}) {
    std::vector<float> scores(keys);
    for (float& score : scores) score = std::exp(logit(random) - 12);
    expect_every_choice_as_defined(scores, "softmax");
  }
}

TEST(ChooseKeysByMass, EqualScores) {
  std::mt19937 random(2);
  for (const int kinds : {1, 2, 5}) {
    std::vector<float> scores(2000);
    for (float& score : scores) score = static_cast<float>(random() % kinds) * 0.125f;
    expect_every_choice_as_defined(scores, "equal");
  }
}

// Below 2⁻⁴⁰ a score counts nothing, and what is not a number ranks lowest.
TEST(ChooseKeysByMass, TinyScoresAndNaN) {
  std::mt19937 random(3);
  const float kinds[] = {0.0f, -0.0f, 0x1p-140f, 0x1p-41f, 0x1p-40f, 0x1.8p-39f, kNaN, 0.25f, 1e5f};
  std::vector<float> scores(1500);
  for (float& score : scores) score = kinds[random() % std::size(kinds)];
  expect_every_choice_as_defined(scores, "mixed");
  expect_every_choice_as_defined(std::vector<float>(100, kNaN), "NaN");
  expect_every_choice_as_defined(std::vector<float>(100, 0.0f), "zero");
}

TEST(ScoreInSteps, RoundsDownAndHasLimits) {
  EXPECT_EQ(score_in_steps(1.0f), uint64_t{1} << 40);
  EXPECT_EQ(score_in_steps(0x1p14f), uint64_t{1} << 54);
  EXPECT_EQ(score_in_steps(std::numeric_limits<float>::infinity()), uint64_t{1} << 54);
  EXPECT_EQ(score_in_steps(0x1.cp-40f), 1u);
  EXPECT_EQ(score_in_steps(0x1p-41f), 0u);
  EXPECT_EQ(score_in_steps(kNaN), 0u);
  EXPECT_EQ(score_in_steps(-1.0f), 0u);
  EXPECT_EQ(steps_to_cover(0.5, 3), 2u);
  EXPECT_EQ(steps_to_cover(1, 12345), 12345u);
  // In f64 the product is 2⁵⁴.
  EXPECT_EQ(steps_to_cover(1, (uint64_t{1} << 54) - 1), (uint64_t{1} << 54) - 1);
}

SelectionSettings with_mass(SelectionSettings settings, double mass, double max_ratio) {
  settings.mass = mass;
  settings.max_ratio = max_ratio;
  return settings;
}

// Compares what a backend selects with the definition applied to the scores that the same backend
// pools. Returns the number of keys that all tiles and heads select.
size_t expect_selects_as_defined(Backend& backend, const AttentionCase& shape, DType cache) {
  const AttentionData data(shape, cache);
  const SelectOptions options = to_select_options(shape.rule);
  const auto selection = backend.make_selection();
  backend.select_keys(data.q, data.cache, data.step(), data.tiles(), options, *selection);
  size_t selected = 0;
  for (int32_t tile = 0; tile < data.batch.tiles(); ++tile) {
    const Choice choice = choice_of(data.batch, tile, options);
    const HostBuffer scores(DType::kF32, shape.kv_heads, choice.causal);
    backend.pool_scores(data.q, data.cache, data.step(), tile, options.pooling, scores.view());
    if (options.all_heads) pool_heads(scores.view(), options.pooling);
    for (int32_t g = 0; g < shape.kv_heads; ++g) {
      const std::vector<int32_t> expected =
          defined_choice(scores.view().f32(options.all_heads ? 0 : g), choice);
      EXPECT_EQ(selection->read(tile, g), expected) << "tile " << tile << ", head " << g;
      EXPECT_EQ(selection->count(tile, g), static_cast<int32_t>(expected.size()));
      selected += expected.size();
    }
  }
  return selected;
}

class MassSelectionTest : public CpuTest {};

TEST_P(MassSelectionTest, IsTheDefinedOne) {
  size_t fewer = 0, more = 0;
  for (AttentionCase shape : attention_cases()) {
    const SelectionSettings rule = shape.rule;
    for (const bool all_heads : {false, true}) {
      for (const ScorePooling pooling : {ScorePooling::kSum, ScorePooling::kMax}) {
        shape.rule = with_mass(rule, 0.5, 0.6);
        shape.rule.all_heads = all_heads;
        shape.rule.pooling = pooling;
        fewer += expect_selects_as_defined(*backend_, shape, dtype());
        shape.rule.mass = 0.95;
        more += expect_selects_as_defined(*backend_, shape, dtype());
      }
    }
  }
  EXPECT_GT(more, fewer);
}

INSTANTIATE_TEST_SUITE_P(Cpu, MassSelectionTest, ::testing::ValuesIn(backend_cases()),
                         name_of_case);

TEST(MassSelection, TheReferenceSelectsTheDefinedKeys) {
  const auto backend = make_reference_backend();
  for (AttentionCase shape : attention_cases()) {
    shape.rule = with_mass(shape.rule, 0.8, 0.9);
    EXPECT_GT(expect_selects_as_defined(*backend, shape, DType::kF32), 0u);
  }
}

TEST(MassSelection, StaysWithinLeastAndMost) {
  const auto backend = make_reference_backend();
  AttentionCase shape{.sequences = {{657, 1, true}}};
  const auto count = [&](const SelectionSettings& rule) {
    shape.rule = rule;
    const AttentionData data(shape, DType::kF32);
    const auto selection = backend->make_selection();
    backend->select_keys(data.q, data.cache, data.step(), data.tiles(), to_select_options(rule),
                         *selection);
    return selection->count(0, 0);
  };
  const SelectionSettings rule{.min_keys = 24};
  EXPECT_EQ(count(with_mass(rule, 1e-6, 1.0)), 24);
  EXPECT_EQ(count(with_mass(rule, 0.999999, 0.25)), 160);   // a quarter of 640
  EXPECT_EQ(count(with_mass(rule, 0.999999, 0.001)), 24);   // min_keys comes first
  EXPECT_EQ(count(with_mass(rule, 1.0, 0.25)), 160);        // all that is allowed
  EXPECT_EQ(count(with_mass({.min_keys = 0}, 1e-6, 1)), 0)  // the own tile has that much
      << "no key is needed";
}

// Queries that are not numbers would give scores that are not, and no key would count.
TEST(MassSelection, NothingIsScoredWhereAllKeysAreTaken) {
  for (const auto& backend : {make_reference_backend(), cpu::make_cpu_backend({.threads = 1})}) {
    for (const SelectionSettings& rule :
         {with_mass(small_rule(), 1, 1), with_mass({.min_keys = 1000}, 0.1, 0.1)}) {
      const AttentionCase shape{.rule = rule, .sequences = kSomeSequences};
      AttentionData data(shape, DType::kF32);
      for (int64_t row = 0; row < data.q.rows; ++row)
        std::fill_n(data.q.f32(row), data.q.cols, kNaN);
      const auto selection = backend->make_selection();
      backend->select_keys(data.q, data.cache, data.step(), data.tiles(), to_select_options(rule),
                           *selection);
      for (int32_t tile = 0; tile < data.batch.tiles(); ++tile) {
        EXPECT_EQ(selection->count(tile, 1),
                  data.batch.candidate_end[tile] - data.batch.candidate_begin[tile]);
      }
    }
  }
}

TEST(MassSelection, DoesNotDependOnThreads) {
  AttentionCase shape{.sequences = kSomeSequences};
  shape.rule = with_mass(small_rule(), 0.9, 1);
  const AttentionData data(shape, DType::kBF16);
  HostSelection one, three;
  cpu::make_cpu_backend({.threads = 1})
      ->select_keys(data.q, data.cache, data.step(), data.tiles(), to_select_options(shape.rule),
                    one);
  cpu::make_cpu_backend({.threads = 3})
      ->select_keys(data.q, data.cache, data.step(), data.tiles(), to_select_options(shape.rule),
                    three);
  EXPECT_EQ(all_keys(one), all_keys(three));
}

}  // namespace
}  // namespace kascade::testing
