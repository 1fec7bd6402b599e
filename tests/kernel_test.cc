// Every operation of every backend against the reference, and the reference against the definition.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/select.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade {
namespace {

using ::testing::ElementsAre;

std::vector<int32_t> choose(const std::vector<float>& scores, const Choice& choice) {
  ChoiceScratch scratch;
  std::vector<int32_t> keys(static_cast<size_t>(choice.budget));
  choose_keys(scores.data(), choice, scratch, keys.data());
  return keys;
}

TEST(ChooseKeys, TakesTheBestAscending) {
  EXPECT_THAT(choose({9, 1, 5, 2, 7, 8}, {1, 5, 2, 1}), ElementsAre(2, 4));
}

TEST(ChooseKeys, EqualScoresGoToTheLowerIndex) {
  EXPECT_THAT(choose(std::vector<float>(8, 0.125f), {2, 8, 3, 1}), ElementsAre(2, 3, 4));
  EXPECT_THAT(choose({0, 1, 0, 1, 2, 1}, {0, 6, 3, 1}), ElementsAre(1, 3, 4));
}

TEST(ChooseKeys, AUnitRanksByItsLargestScore) {
  EXPECT_THAT(choose({0, 1, 5, 0, 2, 2, 0, 4}, {0, 8, 4, 2}), ElementsAre(2, 3, 6, 7));
}

TEST(ChooseKeys, NaNRanksLowest) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(choose({nan, 1, nan, 0, nan}, {0, 5, 3, 1}), ElementsAre(0, 1, 3));
  EXPECT_THAT(choose(std::vector<float>(6, nan), {0, 6, 2, 1}), ElementsAre(0, 1));
}

TEST(ChooseKeys, TakesAllWithoutReadingScores) {
  std::vector<int32_t> keys(4);
  ChoiceScratch scratch;
  choose_keys(nullptr, {3, 7, 4, 1}, scratch, keys.data());
  EXPECT_THAT(keys, ElementsAre(3, 4, 5, 6));
}

TEST(Reference, AttendsToAllCausalKeys) {
  auto backend = make_reference_backend();
  Buffer keys(DType::kF32, 4, 2), values(DType::kF32, 4, 2), q(DType::kF32, 1, 2),
      out(DType::kF32, 1, 2);
  // Block 1 holds positions 0 and 1, block 0 positions 2 and 3; position 3 is not visible.
  const float k[] = {0, 0, NAN, NAN, 0, 0, 0, 0};
  const float v[] = {9, 3, NAN, NAN, 0, 0, 3, 6};
  std::copy(std::begin(k), std::end(k), keys.view().f32(0));
  std::copy(std::begin(v), std::end(v), values.view().f32(0));
  std::fill_n(q.view().f32(0), 2, 1.0f);
  Batch batch{{0}, {2}, {0}, {1, 0}, 2, {0, 1}, {0}, {0}, {2}, {1}, {}};
  backend->attend(q.view(), {keys.view(), values.view(), 2, 1}, batch, {0, 1}, {}, out.view());
  EXPECT_FLOAT_EQ(out.view().f32(0)[0], 4);
  EXPECT_FLOAT_EQ(out.view().f32(0)[1], 3);
}

}  // namespace
}  // namespace kascade
