// Tests int8 and int4 weights: the rules of quantization, and each set of integer kernels against
// the reference. Because both compute with the same integers, results must agree bitwise.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "engine/backend/host/host_buffer.h"
#include "engine/backend/quantization.h"
#include "engine/base/check.h"
#include "engine/base/checksum.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/backends_under_test.h"
#include "tests/support/compare.h"
#include "tests/support/kernel_cases.h"

namespace kascade::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kEndless = std::numeric_limits<float>::infinity();

struct Channel {
  explicit Channel(const std::vector<float>& values, bool int4 = false)
      : levels(values.size(), 99), multiples((values.size() + 7) / 8, 99) {
    const auto size = static_cast<int64_t>(values.size());
    scale = int4 ? quantize_int4(values.data(), size, levels.data(), multiples.data())
                 : quantize_int8(values.data(), size, levels.data());
  }
  std::vector<int8_t> levels;
  std::vector<int8_t> multiples;
  float scale = 0;
};

std::vector<float> rotated(std::vector<float> values) {
  rotate_inputs(values.data(), static_cast<int64_t>(values.size()));
  return values;
}

// The values that rotate_inputs() turns into `values`, of which there is a multiple of 4.
std::vector<float> rotated_back(std::vector<float> values) {
  // A Hadamard matrix is its own inverse, so that only the signs have to change places with it.
  const auto change_signs = [&] {
    for (size_t i = 0; i < values.size(); ++i) {
      const auto in_whole_blocks = static_cast<int64_t>(values.size()) / 256 * 256;
      KASCADE_CHECK(static_cast<int64_t>(values.size()) - in_whole_blocks <= 20);
      int64_t index = static_cast<int64_t>(i);
      index = index < in_whole_blocks ? index % 256 : (index - in_whole_blocks) % 16;
      if (changes_sign(index)) values[i] = -values[i];
    }
  };
  change_signs();
  values = rotated(std::move(values));
  change_signs();
  return values;
}

// Against the definition: a sum over the block's Hadamard matrix.
TEST(Rotation, MultipliesBlocksByAHadamardMatrix) {
  Random random(21);
  const int64_t size = 256 + 2 * 64 + 16 + 2 * 4 + 3;
  const HostBuffer x = normal_matrix(DType::kF32, 1, size, random);
  const std::vector<float> values(x.view().f32(0), x.view().f32(0) + size);
  const std::vector<float> found = rotated(values);
  int64_t first = 0;
  for (const int64_t block : {256, 64, 64, 16, 4, 4, 1, 1, 1}) {
    for (int64_t i = 0; i < block; ++i) {
      double sum = 0, magnitudes = 0;
      for (int64_t j = 0; j < block; ++j) {
        const bool negative =
            (std::popcount(static_cast<uint64_t>(i & j)) % 2 != 0) != changes_sign(j);
        sum += negative ? -double{values[first + j]} : double{values[first + j]};
        magnitudes += std::abs(double{values[first + j]});
      }
      const double root = std::sqrt(static_cast<double>(block));
      EXPECT_NEAR(found[first + i], sum / root, 8 * kUnit * magnitudes / root) << first << " " << i;
    }
    first += block;
  }
}

TEST(Rotation, SpreadsALargeValueAndEqualValues) {
  std::vector<float> one(256, 0.0f);
  one[77] = 1000;
  for (const float value : rotated(one)) EXPECT_EQ(std::abs(value), 1000.0f / 16);
  for (const float value : rotated(std::vector<float>(256, 1.0f))) EXPECT_LT(std::abs(value), 4.5f);
}

TEST(Quantization, Int8SpansTheLargestMagnitude) {
  const Channel channel({0, 1.27f, -2.54f, 0.03f, 0.009f});
  EXPECT_THAT(channel.levels, ElementsAre(0, 64, -127, 2, 0));  // 63.5 goes to the even neighbour
  EXPECT_FLOAT_EQ(channel.scale, 0.02f);
}

TEST(Quantization, ZerosDenormalsAndWhatIsNotFinite) {
  for (const bool int4 : {false, true}) {
    for (const float small : {0.0f, 1e-42f, -1e-33f}) {
      const Channel channel({small, 0, small}, int4);
      EXPECT_EQ(channel.scale, 0.0f);
      EXPECT_THAT(channel.levels, Each(0));
    }
    for (const float bad : {kNaN, kEndless, -kEndless}) {
      const Channel channel({1, bad, 2}, int4);
      EXPECT_TRUE(std::isnan(channel.scale));
      EXPECT_THAT(channel.levels, Each(0));
    }
    const Channel huge({-std::numeric_limits<float>::max(), 1, 0}, int4);
    EXPECT_TRUE(std::isfinite(huge.scale));
    EXPECT_NE(huge.levels[0], 0);
  }
}

TEST(Quantization, Int4LevelsTimesMultiplesFitInt8) {
  for (const int8_t level : kInt4Levels) {
    EXPECT_LE(std::abs(level) * kInt4LargestMultiple, static_cast<int>(kInt4LargestStep));
  }
  EXPECT_TRUE(std::is_sorted(std::begin(kInt4Levels), std::end(kInt4Levels)));
}

TEST(Quantization, Int4GroupsHaveStepsOfTheirOwn) {
  std::vector<float> values(17);
  for (int i = 0; i < 8; ++i) values[i] = static_cast<float>(i - 4);
  for (int i = 8; i < 16; ++i) values[i] = static_cast<float>(i - 12) / 4;
  values[16] = 3;
  const Channel channel(values, true);
  for (size_t i = 0; i < values.size(); ++i) {
    const float back = static_cast<float>(channel.levels[i] * channel.multiples[i / 8]);
    EXPECT_NEAR(back * channel.scale, values[i], i / 8 == 1 ? 0.1 : 0.21) << i;
  }
  EXPECT_NEAR(channel.levels[0] * channel.multiples[0] * channel.scale, -4, 1e-5);
}

// Each value must have its nearest level, and each group the multiple with the least error.
TEST(Quantization, Int4TakesTheBestMultipleAndTheNearestLevels) {
  Random random(3);
  const HostBuffer normal = normal_matrix(DType::kF32, 1, 512, random);
  const std::vector<float> values(normal.view().f32(0), normal.view().f32(0) + 512);
  const Channel channel(values, true);
  const auto error_of = [&](size_t first, double multiple) {
    double error = 0;
    for (size_t i = first; i < first + 8; ++i) {
      double least = std::numeric_limits<double>::infinity();
      for (const int8_t level : kInt4Levels) {
        least = std::min(least, std::pow(values[i] / channel.scale - level * multiple, 2));
      }
      error += least;
    }
    return error;
  };
  for (size_t first = 0; first < values.size(); first += 8) {
    double best = std::numeric_limits<double>::infinity(), found = 0;
    for (int multiple = kInt4LeastMultiple; multiple <= kInt4LargestMultiple; ++multiple) {
      best = std::min({best, error_of(first, multiple), error_of(first, -multiple)});
    }
    for (size_t i = first; i < first + 8; ++i) {
      found +=
          std::pow(values[i] / channel.scale - channel.levels[i] * channel.multiples[first / 8], 2);
    }
    EXPECT_NEAR(found, best, 1e-3 * best) << first;
  }
}

struct IntegerCase {
  WeightFormat format;
  const cpu::IntegerKernels* kernels;
};

std::vector<IntegerCase> integer_cases() {
  const cpu::IntegerKernels* kernels[8];
  const int32_t count = cpu::usable_integer_kernels(kernels, 8);
  std::vector<IntegerCase> cases;
  for (int32_t i = 0; i < count; ++i) {
    cases.push_back({WeightFormat::kInt8, kernels[i]});
    cases.push_back({WeightFormat::kInt4, kernels[i]});
  }
  return cases;
}

class IntegerTest : public ::testing::TestWithParam<IntegerCase> {
 protected:
  std::unique_ptr<Backend> with_threads(int32_t threads) const {
    return cpu::make_cpu_backend(
        {.weights = GetParam().format, .threads = threads, .integer_kernels = GetParam().kernels});
  }
  // Both backends' product of x and w, bit by bit.
  void expect_same(Tensor x, Tensor w, MatrixUse use = MatrixUse::kLayer) {
    const Tensor parts[] = {w.slice_rows(0, w.rows / 3),
                            w.slice_rows(w.rows / 3, w.rows - w.rows / 3)};
    const HostBuffer out(DType::kF32, x.rows, w.rows), expected(DType::kF32, x.rows, w.rows);
    backend_->matmul(x, *backend_->pack(parts, use), out.view(), Into::kOverwrite);
    reference_->matmul(x, *reference_->pack(parts, use), expected.view(), Into::kOverwrite);
    for (int64_t row = 0; row < x.rows; ++row) {
      for (int64_t col = 0; col < w.rows; ++col) {
        const float a = out.view().f32(row)[col], e = expected.view().f32(row)[col];
        ASSERT_TRUE(a == e || (std::isnan(a) && std::isnan(e)))
            << x.rows << "x" << w.cols << "x" << w.rows << " [" << row << ", " << col << "] is "
            << a << ", expected " << e;
      }
    }
  }

  // With one thread for the thread sanitizer's sake, see CpuTest.
  std::unique_ptr<Backend> backend_ = with_threads(1);
  std::unique_ptr<Backend> reference_ = make_reference_backend(GetParam().format);
};

TEST_P(IntegerTest, EqualsTheReferenceBitByBit) {
  Random random(11);
  std::vector<MatmulCase> cases = kMatmulCases;
  for (const int64_t in : {1, 3, 15, 31, 63, 65, 127, 130}) cases.push_back({3, in, 17});
  for (int64_t rows = 1; rows <= 33; ++rows) cases.push_back({rows, 96, 33});
  cases.insert(cases.end(), {{64, 192, 70}, {200, 100, 1}, {113, 64, 65}});
  for (const MatmulCase& shape : cases) {
    const HostBuffer x = normal_matrix(DType::kF32, shape.rows, shape.in + 5, random);
    const HostBuffer w = normal_matrix(DType::kF32, shape.out, shape.in, random, 0.1f);
    expect_same(x.view().slice_cols(3, shape.in), w.view());
  }
}

// Sums that only fit 32 bits because they are cut: every product at its largest.
TEST_P(IntegerTest, LongSumsDoNotOverflow) {
  constexpr int64_t kRows = 10, in = 2 * kIntegerSumLength + 20;
  const HostBuffer x(DType::kF32, kRows, in), w(DType::kF32, 3, in);
  std::vector<float> halves(static_cast<size_t>(in), 0.5f);
  for (size_t i = 0; i < halves.size(); i += 2) halves[i] = -1;
  const std::vector<float> ones = rotated_back(std::vector<float>(halves.size(), 1.0f));
  halves = rotated_back(std::move(halves));
  for (int64_t i = 0; i < in; ++i) {
    for (int64_t row = 0; row < kRows; ++row) {
      x.view().f32(row)[i] = (row % 2 == 0 ? ones : halves)[static_cast<size_t>(i)];
    }
    for (int64_t o = 0; o < 3; ++o) {
      w.view().f32(o)[i] = (o == 1 ? -3.0f : 3.0f) * ones[static_cast<size_t>(i)];
    }
  }
  expect_same(x.view(), w.view());
  const Tensor parts[] = {w.view()};
  const HostBuffer out(DType::kF32, kRows, 3);
  backend_->matmul(x.view(), *backend_->pack(parts, MatrixUse::kLayer), out.view(),
                   Into::kOverwrite);
  const auto most = static_cast<double>(3 * in);
  EXPECT_NEAR(out.view().f32(0)[0] / most, 1, 0.01);
  EXPECT_NEAR(out.view().f32(0)[1] / most, -1, 0.01);
}

TEST_P(IntegerTest, ZeroTinyHugeAndBadRows) {
  Random random(12);
  const HostBuffer x = normal_matrix(DType::kF32, 16, 100, random);
  const HostBuffer w = normal_matrix(DType::kF32, 40, 100, random);
  const float values[] = {0, 1e-42f, 1e-33f, 1e38f, kNaN, kEndless};
  for (int64_t row = 0; row < 6; ++row) {
    std::fill_n(x.view().f32(row + 3), 100, values[row]);
    std::fill_n(w.view().f32(7 * row), 100, values[row]);
  }
  x.view().f32(10)[99] = -kEndless;
  x.view().f32(11)[0] = kNaN;
  expect_same(x.view(), w.view());
}

TEST_P(IntegerTest, AddsAndStaysWithinItsColumns) {
  Random random(13);
  const HostBuffer x = normal_matrix(DType::kF32, 30, 80, random);
  const HostBuffer w = normal_matrix(DType::kF32, 45, 80, random);
  const Tensor parts[] = {w.view()};
  const HostBuffer wide = normal_matrix(DType::kF32, 31, 60, random);
  const HostBuffer before(DType::kF32, 31, 60), expected(DType::kF32, 30, 45);
  std::copy_n(wide.view().f32(0), 31 * 60, before.view().f32(0));
  for (int64_t row = 0; row < 30; ++row) {
    std::copy_n(wide.view().f32(row) + 7, 45, expected.view().f32(row));
  }
  const Tensor out = wide.first_rows(30).slice_cols(7, 45);
  backend_->matmul(x.view(), *backend_->pack(parts, MatrixUse::kLayer), out, Into::kAdd);
  reference_->matmul(x.view(), *reference_->pack(parts, MatrixUse::kLayer), expected.view(),
                     Into::kAdd);
  // One addition, which may be fused with the product before it.
  expect_close(
      out, expected.view(),
      [&](int64_t row, int64_t col) {
        return 2 * kUnit *
               (std::abs(double{before.view().f32(row)[col + 7]}) +
                std::abs(double{expected.view().f32(row)[col]}));
      },
      "added");
  for (int64_t row = 0; row < 31; ++row) {
    for (int64_t col = 0; col < 60; ++col) {
      if (row < 30 && col >= 7 && col < 52) continue;
      ASSERT_EQ(wide.view().f32(row)[col], before.view().f32(row)[col]) << row << " " << col;
    }
  }
}

TEST_P(IntegerTest, ARowDoesNotDependOnTheOthers) {
  Random random(14);
  const HostBuffer x = normal_matrix(DType::kF32, 200, 160, random);
  const HostBuffer w = normal_matrix(DType::kF32, 100, 160, random);
  const Tensor parts[] = {w.view()};
  const auto packed = backend_->pack(parts, MatrixUse::kLayer);
  const HostBuffer all(DType::kF32, 200, 100), some(DType::kF32, 200, 100);
  std::fill_n(all.view().f32(0), 200 * 100, 0.25f);
  backend_->matmul(x.view(), *packed, all.view(), Into::kAdd);
  for (int64_t rows = 1; rows <= 64; rows += rows < 33 ? 1 : 31) {
    const int64_t first = 200 - rows;
    std::fill_n(some.view().f32(0), 200 * 100, 0.25f);
    backend_->matmul(x.view().slice_rows(first, rows), *packed, some.first_rows(rows), Into::kAdd);
    ASSERT_EQ(std::memcmp(some.view().f32(0), all.view().f32(first),
                          static_cast<size_t>(rows * 100) * sizeof(float)),
              0)
        << rows << " rows";
  }
}

TEST_P(IntegerTest, PacksEveryDtypeIntoFewBytes) {
  Random random(16);
  for (const DType part : {DType::kF32, DType::kBF16, DType::kF16}) {
    const HostBuffer x = normal_matrix(DType::kF32, 3, 128, random);
    const HostBuffer w = normal_matrix(part, 64, 128, random);
    expect_same(x.view(), w.view());
    expect_same(x.view(), w.view(), MatrixUse::kHead);
    const Tensor parts[] = {w.view()};
    const bool int4 = GetParam().format == WeightFormat::kInt4;
    const int64_t levels = 64 * 128 / (int4 ? 2 : 1) + (int4 ? 64 * 128 / 16 : 0);
    EXPECT_EQ(backend_->pack(parts, MatrixUse::kLayer)->bytes(), levels + 64 * 4);
    EXPECT_EQ(backend_->pack(parts, MatrixUse::kHead)->bytes(), 64 * 128 + 64 * 4);
  }
}

TEST_P(IntegerTest, QuantisesInt4AsTheReference) {
  Random random(22);
  std::normal_distribution<float> normal(0, 1);
  for (const int64_t size : {1, 7, 8, 9, 100, 256, 257, 1000}) {
    for (const float spread : {1.0f, 8.0f}) {
      std::vector<float> values(static_cast<size_t>(size));
      for (float& value : values) value = std::pow(normal(random), 3.0f) * spread;
      if (size > 60) std::fill_n(values.begin() + 32, 20, 0.0f);
      const Channel wanted(values, true);
      Channel found(values, true);
      std::fill(found.levels.begin(), found.levels.end(), int8_t{99});
      std::fill(found.multiples.begin(), found.multiples.end(), int8_t{99});
      found.scale = GetParam().kernels->quantize_int4(values.data(), size, found.levels.data(),
                                                      found.multiples.data());
      EXPECT_EQ(found.scale, wanted.scale);
      EXPECT_EQ(found.levels, wanted.levels) << size;
      EXPECT_EQ(found.multiples, wanted.multiples) << size;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, IntegerTest, ::testing::ValuesIn(integer_cases()),
                         [](const auto& test) {
                           return std::string(name_of(test.param.format)) + "_" +
                                  test.param.kernels->isa;
                         });

// The result is off by no more than half a step of each factor allows.
TEST(Int8, IsCloseToTheProductInF32) {
  const auto backend = cpu::make_cpu_backend({.weights = WeightFormat::kInt8, .threads = 1});
  Random random(15);
  const HostBuffer x = normal_matrix(DType::kF32, 5, 256, random);
  const HostBuffer w = normal_matrix(DType::kF32, 24, 256, random);
  const Tensor parts[] = {w.view()};
  const HostBuffer out(DType::kF32, 5, 24);
  backend->matmul(x.view(), *backend->pack(parts, MatrixUse::kLayer), out.view(), Into::kOverwrite);
  for (int64_t row = 0; row < 5; ++row) rotate_inputs(x.view().f32(row), 256);
  for (int64_t row = 0; row < 24; ++row) rotate_inputs(w.view().f32(row), 256);
  std::vector<int8_t> levels(256);
  for (int64_t row = 0; row < 5; ++row) {
    const double x_step = quantize_int8(x.view().f32(row), 256, levels.data());
    for (int64_t o = 0; o < 24; ++o) {
      const double w_step = quantize_int8(w.view().f32(o), 256, levels.data());
      double product = 0, bound = 0;
      for (int64_t i = 0; i < 256; ++i) {
        const double a = x.view().f32(row)[i], b = w.view().f32(o)[i];
        product += a * b;
        bound += std::abs(a) * w_step / 2 + std::abs(b) * x_step / 2 + x_step * w_step / 4;
      }
      EXPECT_LE(std::abs(out.view().f32(row)[o] - product), 1.001 * bound);
    }
  }
}

TEST(IntegerWithThreads, SameBitsAsOneThread) {
  Random random(17);
  const HostBuffer x = normal_matrix(DType::kF32, 150, 2100, random);
  const HostBuffer w = normal_matrix(DType::kF32, 500, 2100, random);
  const Tensor parts[] = {w.view()};
  for (const WeightFormat format :
       {WeightFormat::kInt8, WeightFormat::kInt4, WeightFormat::kBF16}) {
    if (format == WeightFormat::kBF16 && cpu::pick_bf16_kernels() == nullptr) continue;
    HostBuffer results[2];
    for (const int32_t threads : {1, 3}) {
      const auto backend = cpu::make_cpu_backend({.weights = format, .threads = threads});
      HostBuffer& out = results[threads / 2] = HostBuffer(DType::kF32, 150, 500);
      backend->matmul(x.view(), *backend->pack(parts, MatrixUse::kLayer), out.view(),
                      Into::kOverwrite);
    }
    EXPECT_EQ(std::memcmp(results[0].view().f32(0), results[1].view().f32(0),
                          static_cast<size_t>(results[0].bytes())),
              0);
  }
}

// Files of packed weights outlive the program: what pack() makes may only change together with the
// form's name. If this fails, count the number in form_name() (cpu/matmul_panels.cc) up, and put
// the new name and sums here.
TEST(PackedForms, AreWhatTheirNamesSay) {
  struct Form {
    WeightFormat format;
    const char* name;
    uint64_t sum;
  };
  HostBuffer w(DType::kF32, 37, 700);
  for (int64_t i = 0; i < 37 * 700; ++i) {
    w.view().f32(0)[i] = static_cast<float>((i * 7919) % 2003 - 1001) / 512;
  }
  const Tensor parts[] = {w.view()};
  for (const Form& form : {Form{WeightFormat::kBF16, "bf16-panels-2", 9414475141167133679u},
                           Form{WeightFormat::kInt8, "int8-panels-2", 275563259236429423u},
                           Form{WeightFormat::kInt4, "int4-panels-3", 5968294994714403833u}}) {
    if (form.format == WeightFormat::kBF16 && cpu::pick_bf16_kernels() == nullptr) continue;
    const auto backend = cpu::make_cpu_backend({.weights = form.format, .threads = 1});
    const auto named = backend->packed_form(parts, MatrixUse::kLayer);
    EXPECT_EQ(named.value_or(PackedForm{}).name, form.name);
    EXPECT_EQ(checksum(backend->pack(parts, MatrixUse::kLayer)->packed()), form.sum)
        << "of " << form.name << ": the bytes have changed, so must the name";
  }
}

}  // namespace
}  // namespace kascade::testing
