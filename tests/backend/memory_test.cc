// Tests a backend's memory and the operations that move rows, which must be exact on every backend,
// and the statistics of logits against sums in f64 over the whole vocabulary.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/cpu.h"
#include "gtest/gtest.h"

namespace kascade::testing {
namespace {

std::unique_ptr<Backend> backend_named(const std::string& name) {
  return name == "cpu" ? cpu::make_cpu_backend({.threads = 1}) : make_reference_backend();
}

class MemoryTest : public ::testing::TestWithParam<std::string> {
 protected:
  Buffer uploaded(const std::vector<float>& values, int64_t rows) {
    const auto cols = static_cast<int64_t>(values.size()) / rows;
    Buffer buffer = backend_->allocate(DType::kF32, rows, cols);
    backend_->upload(std::as_bytes(std::span(values)), buffer.view());
    return buffer;
  }
  std::vector<float> downloaded(Tensor tensor) {
    std::vector<float> values(static_cast<size_t>(tensor.rows * tensor.cols));
    backend_->download(tensor, std::as_writable_bytes(std::span(values)));
    return values;
  }
  static std::vector<float> numbers(size_t count, float scale = 1) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> values(count);
    for (float& value : values) value = normal(random);
    return values;
  }

  std::unique_ptr<Backend> backend_ = backend_named(GetParam());
};

TEST_P(MemoryTest, DownloadReturnsWhatWasUploaded) {
  const std::vector<float> values = numbers(7 * 13);
  const Buffer buffer = uploaded(values, 7);
  EXPECT_EQ(downloaded(buffer.view()), values);
  const std::vector<float> part = downloaded(buffer.view().slice_cols(4, 5).slice_rows(2, 3));
  for (int row = 0; row < 3; ++row) {
    for (int col = 0; col < 5; ++col) {
      EXPECT_EQ(part[row * 5 + col], values[(row + 2) * 13 + col + 4]);
    }
  }
}

TEST_P(MemoryTest, CopyAndGatherMoveRows) {
  const std::vector<float> values = numbers(5 * 6);
  const Buffer from = uploaded(values, 5);
  const Buffer all = backend_->allocate(DType::kF32, 5, 6);
  backend_->copy(from.view(), all.view());
  EXPECT_EQ(downloaded(all.view()), values);
  const std::vector<int32_t> rows = {4, 0, 0, 3};
  const Buffer some = backend_->allocate(DType::kF32, 4, 6);
  backend_->gather_rows(from.view(), rows, some.view());
  const std::vector<float> gathered = downloaded(some.view());
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t col = 0; col < 6; ++col) {
      EXPECT_EQ(gathered[i * 6 + col], values[rows[i] * 6 + col]);
    }
  }
}

// In f64, rounded once: at position 100,000 an f32 product would be off by hundredths.
TEST_P(MemoryTest, RotaryAnglesAreRoundedOnce) {
  const std::vector<double> frequencies = {1.0, 0.1234567, 1e-4};
  const Batch batch{.positions = {0, 7, 100'000}};
  const auto step = backend_->prepare(batch);
  const Buffer angles = backend_->allocate(DType::kF32, 3, 6);
  backend_->rotary_angles(*step, frequencies, angles.view());
  const std::vector<float> values = downloaded(angles.view());
  for (size_t row = 0; row < 3; ++row) {
    for (size_t pair = 0; pair < 3; ++pair) {
      const double angle = batch.positions[row] * frequencies[pair];
      EXPECT_NEAR(values[row * 6 + pair], std::cos(angle), 6e-8);
      EXPECT_NEAR(values[row * 6 + 3 + pair], std::sin(angle), 6e-8);
    }
  }
}

// ---- Statistics of logits ----

struct Expected {
  double log_sum = 0, difference = 0;
  int32_t above = 0;
  std::vector<Token> order;  // most likely first
};
Expected expected_of(std::span<const float> row, std::span<const float> other, Token target) {
  Expected expected;
  double sum = 0;
  for (const float logit : row) sum += std::exp(static_cast<double>(logit));
  expected.log_sum = std::log(sum);
  for (size_t i = 0; i < row.size(); ++i) {
    const double p = std::exp(static_cast<double>(row[i])) / sum;
    expected.difference += p * (static_cast<double>(row[i]) - other[i]);
  }
  expected.order.resize(row.size());
  std::iota(expected.order.begin(), expected.order.end(), 0);
  std::stable_sort(expected.order.begin(), expected.order.end(),
                   [&](Token a, Token b) { return row[a] > row[b]; });
  const auto place = std::ranges::find(expected.order, target);
  expected.above = static_cast<int32_t>(place - expected.order.begin());
  return expected;
}

TEST_P(MemoryTest, LogitStatisticsEqualSumsOverTheWholeVocabulary) {
  constexpr int32_t kRows = 3, kVocab = 1000;
  std::vector<float> values = numbers(kRows * kVocab, 4);
  const std::vector<float> others = numbers(kRows * kVocab, 3.5f);
  values[kVocab + 17] = values[kVocab + 400];  // equal logits rank by id
  const std::vector<Token> targets = {999, 400, 0};
  const Buffer logits = uploaded(values, kRows), other = uploaded(others, kRows);
  const auto statistics = backend_->make_logit_statistics();
  for (const int32_t width : {kVocab, 333, 64}) {
    SCOPED_TRACE(width);
    statistics->start(targets, 5);
    for (int32_t first = 0; first < kVocab; first += width) {
      const int32_t count = std::min(width, kVocab - first);
      statistics->add(logits.view().slice_cols(first, count), first);
      statistics->add_difference(logits.view().slice_cols(first, count),
                                 other.view().slice_cols(first, count));
    }
    for (int32_t first = 0; first < kVocab; first += width) {
      statistics->add_ranks(logits.view().slice_cols(first, std::min(width, kVocab - first)),
                            first);
    }
    const std::vector<RowStatistics> rows = statistics->read();
    ASSERT_EQ(rows.size(), targets.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto row = std::span(values).subspan(i * kVocab, kVocab);
      const Expected expected =
          expected_of(row, std::span(others).subspan(i * kVocab, kVocab), targets[i]);
      // Terms within 3 ulp in f32, sums of 512 of them in f32.
      EXPECT_NEAR(rows[i].log_sum, expected.log_sum, 1e-5);
      EXPECT_NEAR(rows[i].expected_difference, expected.difference, 1e-4);
      EXPECT_EQ(rows[i].target, row[targets[i]]);
      EXPECT_EQ(rows[i].best, expected.order[0]);
      EXPECT_EQ(rows[i].above, expected.above);
      EXPECT_TRUE(rows[i].finite);
      ASSERT_EQ(rows[i].top.size(), 5u);
      for (size_t k = 0; k < 5; ++k) EXPECT_EQ(rows[i].top[k].token, expected.order[k]);
    }
  }
}

TEST_P(MemoryTest, LogitStatisticsSayWhatIsNotFinite) {
  std::vector<float> values(8, 0.5f);
  values[6] = std::nanf("");
  const Buffer logits = uploaded(values, 2);
  const auto statistics = backend_->make_logit_statistics();
  statistics->start(std::vector<Token>{0, 1}, 0);
  statistics->add(logits.view(), 0);
  const std::vector<RowStatistics> rows = statistics->read();
  EXPECT_TRUE(rows[0].finite);
  EXPECT_FALSE(rows[1].finite);
}

INSTANTIATE_TEST_SUITE_P(Backends, MemoryTest, ::testing::Values("reference", "cpu"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace kascade::testing
