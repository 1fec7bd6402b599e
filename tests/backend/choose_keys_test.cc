// Tests the choice of the keys with the best scores against a stable sort.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "engine/backend/cpu/kernels.h"
#include "engine/backend/host/select.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<int32_t> sorted_choice(const std::vector<float>& scores, const Choice& choice) {
  std::vector<int32_t> units((choice.end - choice.begin) / choice.unit);
  std::iota(units.begin(), units.end(), 0);
  const auto best = [&](int32_t unit) {
    float largest = -kInfinity;
    for (int32_t i = 0; i < choice.unit; ++i) {
      const float score = scores[choice.begin + unit * choice.unit + i];
      if (score > largest) largest = score;
    }
    return largest;
  };
  std::stable_sort(units.begin(), units.end(),
                   [&](int32_t a, int32_t b) { return best(a) > best(b); });
  units.resize(choice.budget / choice.unit);
  std::sort(units.begin(), units.end());
  std::vector<int32_t> keys;
  for (const int32_t unit : units) {
    for (int32_t i = 0; i < choice.unit; ++i) keys.push_back(choice.begin + unit * choice.unit + i);
  }
  return keys;
}

void expect_like_sorted(const std::vector<float>& scores, const Choice& choice,
                        const std::string& what) {
  const std::vector<int32_t> expected = sorted_choice(scores, choice);
  const cpu::Kernels* usable[8];
  const int32_t sets = cpu::usable_kernels(usable, 8);
  for (int32_t set = 0; set < sets; ++set) {
    ChoiceWorkspace scratch;
    constexpr int32_t kBeyond = -7;
    std::vector<int32_t> chosen(static_cast<size_t>(choice.budget) + 1, kBeyond);
    choose_keys(scores.data(), choice, scratch, chosen.data(), *usable[set]->choice);
    EXPECT_EQ(chosen.back(), kBeyond) << "written past the budget";
    chosen.pop_back();
    EXPECT_EQ(chosen, expected) << what << ", " << choice.budget << " of "
                                << choice.end - choice.begin << ", " << usable[set]->isa;
  }
}

// All sizes from one unit on, all kinds of budgets.
void expect_every_choice(const std::vector<float>& scores, const std::string& what) {
  const auto keys = static_cast<int32_t>(scores.size());
  for (const int32_t unit : {1, 4}) {
    for (const int32_t begin : {0, 3}) {
      const int32_t end = begin + (keys - begin) / unit * unit;
      for (const double share : {0.0, 0.001, 0.1, 0.5, 0.99, 1.0}) {
        const int32_t units = (end - begin) / unit;
        const auto budget = std::min(units, static_cast<int32_t>(std::ceil(share * units))) * unit;
        expect_like_sorted(scores, {begin, end, budget, unit}, what);
      }
    }
  }
}

TEST(ChooseKeysTest, SoftmaxScores) {
  std::mt19937 random(1);
  std::normal_distribution<float> logit(0, 4);
  for (const size_t keys : {4, 5, 31, 1000, 8192, 40000, 131072}) {
    std::vector<float> scores(keys);
    for (float& score : scores) score = std::exp(logit(random) - 20);
    expect_every_choice(scores, "softmax");
  }
}

TEST(ChooseKeysTest, ManyEqual) {
  std::mt19937 random(2);
  for (const int kinds : {1, 2, 5}) {
    std::vector<float> scores(2000);
    for (float& score : scores) score = static_cast<float>(random() % kinds) * 0.125f;
    expect_every_choice(scores, "equal");
  }
}

TEST(ChooseKeysTest, AlmostEqual) {
  std::mt19937 random(3);
  std::vector<float> scores(3000);
  for (float& score : scores) score = 1 + static_cast<float>(random() % 500) * 0x1p-23f;
  expect_every_choice(scores, "almost equal");
}

TEST(ChooseKeysTest, EveryKindOfNumber) {
  std::mt19937 random(4);
  const float kinds[] = {0.0f,      -0.0f,      1.0f,    -1.0f, 0x1p-140f, -0x1p-140f,
                         kInfinity, -kInfinity, 3.0e38f, kNaN,  -kNaN,     0x1p-126f};
  std::vector<float> scores(1500);
  for (float& score : scores) score = kinds[random() % std::size(kinds)];
  expect_every_choice(scores, "mixed");
}

// A sample of every 32nd score would see all the best, or none of them.
TEST(ChooseKeysTest, ASampleThatMisleads) {
  for (const int best : {15, 16, 17}) {
    std::vector<float> scores(5000);
    for (int i = 0; i < 5000; ++i) scores[i] = (i % 32 == best ? 1.0f : 0.5f) + 1e-5f * (i % 7);
    expect_every_choice(scores, "misleading");
  }
}

TEST(ChooseKeysTest, AllNaN) { expect_every_choice(std::vector<float>(100, kNaN), "NaN"); }

}  // namespace
}  // namespace kascade::testing
