// Tests the selection of keys, the operations on rows and the matrix product: each backend against
// the reference, and the reference against results computed by hand.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/matmul_onednn.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/host/select.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/backends_under_test.h"
#include "tests/support/compare.h"
#include "tests/support/kernel_cases.h"

namespace kascade::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::Pointwise;

std::vector<int32_t> choose(const std::vector<float>& scores, const Choice& choice) {
  ChoiceWorkspace scratch;
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
  ChoiceWorkspace scratch;
  choose_keys(nullptr, {3, 7, 4, 1}, scratch, keys.data());
  EXPECT_THAT(keys, ElementsAre(3, 4, 5, 6));
}

TEST(Reference, NormsEachHeadAddsBiasesAndScales) {
  auto backend = make_reference_backend();
  HostBuffer x(DType::kF32, 1, 4), weight(DType::kF32, 1, 2), bias(DType::kF32, 1, 4);
  const float values[] = {3, 3, 0, 4}, weights[] = {1, 10}, biases[] = {1, 2, 3, 4};
  std::copy(std::begin(values), std::end(values), x.view().f32(0));
  std::copy(std::begin(weights), std::end(weights), weight.view().f32(0));
  std::copy(std::begin(biases), std::end(biases), bias.view().f32(0));
  // The root mean squares of the heads are 3 and √8.
  backend->rms_norm_heads(x.view(), weight.view(), 0);
  const float root = std::sqrt(2.0f);
  EXPECT_THAT(std::vector<float>(x.view().f32(0), x.view().f32(0) + 4),
              Pointwise(FloatEq(), {1.0f, 10.0f, 0.0f, 10 * root}));
  backend->add_bias(x.view(), bias.view());
  backend->scale(x.view(), 2);
  EXPECT_THAT(std::vector<float>(x.view().f32(0), x.view().f32(0) + 4),
              Pointwise(FloatEq(), {4.0f, 24.0f, 6.0f, 20 * root + 8}));
}

TEST(Reference, AttendsToAllCausalKeys) {
  auto backend = make_reference_backend();
  HostBuffer keys(DType::kF32, 4, 2), values(DType::kF32, 4, 2), q(DType::kF32, 1, 2),
      out(DType::kF32, 1, 2);
  // Block 1 holds positions 0 and 1, block 0 positions 2 and 3; position 3 is not visible.
  const float k[] = {0, 0, NAN, NAN, 0, 0, 0, 0};
  const float v[] = {9, 3, NAN, NAN, 0, 0, 3, 6};
  std::copy(std::begin(k), std::end(k), keys.view().f32(0));
  std::copy(std::begin(v), std::end(v), values.view().f32(0));
  std::fill_n(q.view().f32(0), 2, 1.0f);
  Batch batch{{0}, {2}, {0}, {1, 0}, 2, {0, 1}, {0}, {0}, {2}, {1}, {}};
  backend->attend(q.view(), {keys.view(), values.view(), 2, 1}, HostStepInput(batch), {0, 1}, {},
                  out.view());
  EXPECT_FLOAT_EQ(out.view().f32(0)[0], 4);
  EXPECT_FLOAT_EQ(out.view().f32(0)[1], 3);
}

// Rows of every awkward width; `stride` beyond it, as in a slice of a wider matrix.
const std::vector<std::pair<int64_t, int64_t>> kRowShapes = {{1, 1}, {17, 6}, {32, 64}, {97, 80}};

using RowTest = CpuTest;

TEST_P(RowTest, RmsNorm) {
  Random random(2);
  for (const auto& [rows, cols] : kRowShapes) {
    const HostBuffer x = normal_matrix(DType::kF32, rows, cols + 3, random, 4);
    const HostBuffer weight = normal_matrix(DType::kF32, 1, cols, random);
    const HostBuffer out(DType::kF32, rows, cols), expected(DType::kF32, rows, cols);
    const Tensor in = x.view().slice_cols(2, cols);
    backend_->rms_norm(in, weight.view(), 1e-5f, out.view());
    reference_->rms_norm(in, weight.view(), 1e-5f, expected.view());
    // The sum of squares is off by cols · u on either side, the root halves that; five more
    // operations follow.
    expect_close(
        out.view(), expected.view(),
        [&](int64_t row, int64_t col) {
          return (static_cast<double>(cols) + 10) * kUnit * std::abs(expected.view().f32(row)[col]);
        },
        "rms_norm");
  }
}

TEST_P(RowTest, RmsNormHeads) {
  Random random(12);
  for (const int64_t dim : {2, 6, 16, 80, 128}) {
    // Three heads in the middle of wider rows.
    const HostBuffer out = normal_matrix(DType::kF32, 17, 5 * dim, random, 4);
    const HostBuffer expected(DType::kF32, 17, 5 * dim);
    std::copy_n(out.view().f32(0), 17 * 5 * dim, expected.view().f32(0));
    const HostBuffer weight = normal_matrix(DType::kF32, 1, dim, random);
    backend_->rms_norm_heads(out.view().slice_cols(dim, 3 * dim), weight.view(), 1e-5f);
    reference_->rms_norm_heads(expected.view().slice_cols(dim, 3 * dim), weight.view(), 1e-5f);
    expect_close(
        out.view(), expected.view(),
        [&](int64_t row, int64_t col) {
          const bool is_normed = col >= dim && col < 4 * dim;
          return is_normed ? (static_cast<double>(dim) + 10) * kUnit *
                                 std::abs(expected.view().f32(row)[col])
                           : 0;
        },
        "rms_norm_heads");
  }
}

TEST_P(RowTest, AddBiasAndScaleAreExact) {
  Random random(13);
  for (const auto& [rows, cols] : kRowShapes) {
    const HostBuffer out = normal_matrix(DType::kF32, rows, cols + 3, random);
    const HostBuffer expected(DType::kF32, rows, cols + 3);
    std::copy_n(out.view().f32(0), rows * (cols + 3), expected.view().f32(0));
    const HostBuffer bias = normal_matrix(DType::kF32, 1, cols, random);
    for (const auto& [backend, x] :
         {std::pair{backend_.get(), out.view()}, {reference_.get(), expected.view()}}) {
      backend->add_bias(x.slice_cols(2, cols), bias.view());
      backend->scale(x.slice_cols(1, cols), 0.3f);
    }
    expect_close(out.view(), expected.view(), [](int64_t, int64_t) { return 0; }, "bias, scale");
  }
}

TEST_P(RowTest, Rope) {
  Random random(3);
  for (const int64_t dim : {2, 8, 16, 64, 80, 128}) {
    const int32_t heads = 3;
    const HostBuffer out = normal_matrix(DType::kF32, 17, (heads + 1) * dim, random);
    const HostBuffer expected(DType::kF32, 17, (heads + 1) * dim);
    std::copy_n(out.view().f32(0), 17 * (heads + 1) * dim, expected.view().f32(0));
    const HostBuffer rotation = normal_matrix(DType::kF32, 17, dim, random);
    backend_->rope(out.view(), heads, rotation.view());
    reference_->rope(expected.view(), heads, rotation.view());
    double largest = 0;
    for (int64_t i = 0; i < 17 * dim; ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(rotation.view().f32(0)[i])));
    }
    // Two products and a sum: 2u of the terms' sizes on either side. |x| < 6 for these normals.
    expect_close(
        out.view(), expected.view(),
        [&](int64_t, int64_t col) { return col >= heads * dim ? 0 : 4 * kUnit * 2 * 6 * largest; },
        "rope");
  }
}

TEST_P(RowTest, SiluMul) {
  Random random(4);
  for (const auto& [rows, cols] : kRowShapes) {
    const HostBuffer gate_up = normal_matrix(DType::kF32, rows, 2 * cols, random, 30);
    const HostBuffer out(DType::kF32, rows, cols), expected(DType::kF32, rows, cols);
    backend_->silu_mul(gate_up.view(), out.view());
    reference_->silu_mul(gate_up.view(), expected.view());
    // Our exp is good to 2 ulp = 4u, std's to 2u; three operations on either side. Below -87 the
    // quotient is held at |gate| · e⁻⁸⁸ or so instead of vanishing.
    expect_close(
        out.view(), expected.view(),
        [&](int64_t row, int64_t col) {
          const float* x = gate_up.view().f32(row);
          return 12 * kUnit * std::abs(expected.view().f32(row)[col]) +
                 std::exp(-87.0) * std::abs(x[col] * x[cols + col]);
        },
        "silu_mul");
  }
}

TEST_P(RowTest, EmbedIsExact) {
  Random random(5);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t cols : {1, 17, 80}) {
      const HostBuffer table = normal_matrix(dtype, 9, cols, random);
      const Batch batch{.tokens = {8, 0, 3, 3, 5, 1, 0, 8, 7, 2, 4}};
      const HostStepInput step(batch);
      const int64_t rows = batch.rows();
      const HostBuffer out(DType::kF32, rows, cols), expected(DType::kF32, rows, cols);
      backend_->embed(*backend_->adopt_embedding(table.view()), step, out.view());
      reference_->embed(*reference_->adopt_embedding(table.view()), step, expected.view());
      expect_close(out.view(), expected.view(), [](int64_t, int64_t) { return 0; }, "embed");
    }
  }
}

void expect_writes_like(Backend& backend, Backend& reference, DType dtype) {
  Random random(6);
  const int32_t kv_heads = 3, block_size = 4;
  for (const int64_t dim : {6, 16, 80}) {
    const HostBuffer keys = normal_matrix(DType::kF32, 5, kv_heads * dim, random);
    const HostBuffer values = normal_matrix(DType::kF32, 5, kv_heads * dim, random);
    keys.view().f32(0)[0] = std::numeric_limits<float>::quiet_NaN();
    keys.view().f32(0)[1] = std::numeric_limits<float>::infinity();
    const Batch batch{.slots = {11, 0, 6, 5, 8}};
    const HostStepInput step(batch);
    const HostBuffer written[] = {normal_matrix(dtype, 36, dim, random),
                                  normal_matrix(dtype, 36, dim, random)};
    HostBuffer expected[] = {HostBuffer(dtype, 36, dim), HostBuffer(dtype, 36, dim)};
    for (int i = 0; i < 2; ++i) {
      std::copy_n(written[i].view().row<std::byte>(0), written[i].bytes(),
                  expected[i].view().row<std::byte>(0));
    }
    backend.write_kv(keys.view(), values.view(), step,
                     {written[0].view(), written[1].view(), block_size, kv_heads});
    reference.write_kv(keys.view(), values.view(), step,
                       {expected[0].view(), expected[1].view(), block_size, kv_heads});
    for (int i = 0; i < 2; ++i) {
      const auto* bytes = written[i].view().row<std::byte>(0);
      EXPECT_TRUE(
          std::equal(bytes, bytes + written[i].bytes(), expected[i].view().row<std::byte>(0)));
    }
  }
}

TEST_P(RowTest, WriteKvRoundsToTheCache) {
  expect_writes_like(*backend_, *reference_, dtype());
  expect_writes_like(*backend_, *reference_, DType::kInt8);
}

INSTANTIATE_TEST_SUITE_P(Cpu, RowTest, ::testing::ValuesIn(backend_cases()), name_of_case);

class MatmulTest : public CpuTest {
 protected:
  void SetUp() override {
    if (dtype() == DType::kBF16 && cpu::pick_bf16_kernels() == nullptr) {
      GTEST_SKIP() << "no bf16 instructions on this machine";
    }
  }
};

// |x| · |w|ᵀ: what rounding errors of the product are in proportion to.
HostBuffer absolute_product(Backend& reference, Tensor x, Tensor w) {
  const HostBuffer abs_x(DType::kF32, x.rows, x.cols), abs_w(DType::kF32, w.rows, w.cols);
  for (int64_t row = 0; row < x.rows; ++row) {
    for (int64_t i = 0; i < x.cols; ++i) abs_x.view().f32(row)[i] = std::abs(x.f32(row)[i]);
  }
  for (int64_t row = 0; row < w.rows; ++row) {
    for (int64_t i = 0; i < w.cols; ++i) abs_w.view().f32(row)[i] = std::abs(w.f32(row)[i]);
  }
  HostBuffer product(DType::kF32, x.rows, w.rows);
  const Tensor parts[] = {abs_w.view()};
  reference.matmul(abs_x.view(), *reference.pack(parts, MatrixUse::kLayer), product.view(),
                   Into::kOverwrite);
  return product;
}

TEST_P(MatmulTest, EqualsTheReference) {
  Random random(7);
  for (const MatmulCase& shape : kMatmulCases) {
    const HostBuffer x = normal_matrix(DType::kF32, shape.rows, shape.in + 5, random);
    const Tensor in = x.view().slice_cols(3, shape.in);
    const HostBuffer w = normal_matrix(DType::kF32, shape.out, shape.in, random);
    const Tensor parts[] = {w.view().slice_rows(0, shape.out / 2),
                            w.view().slice_rows(shape.out / 2, shape.out - shape.out / 2)};
    const auto packed = backend_->pack(parts, MatrixUse::kLayer),
               plain = reference_->pack(parts, MatrixUse::kLayer);
    EXPECT_EQ(packed->out_features(), shape.out);
    EXPECT_EQ(packed->in_features(), shape.in);
    const HostBuffer size = absolute_product(*reference_, in, w.view());
    // 2n · u for the sums; with bf16 both factors of each product are rounded first.
    const double relative = 2.0 * static_cast<double>(shape.in + 1) * kUnit +
                            (dtype() == DType::kBF16 ? 2.01 * kUnitBf16 : 0);
    for (const Into into : {Into::kOverwrite, Into::kAdd}) {
      const HostBuffer wide = normal_matrix(DType::kF32, shape.rows, shape.out + 7, random);
      const Tensor out = wide.view().slice_cols(4, shape.out);
      const HostBuffer expected(DType::kF32, shape.rows, shape.out);
      double before = 0;
      for (int64_t row = 0; row < shape.rows; ++row) {
        std::copy_n(out.f32(row), shape.out, expected.view().f32(row));
        for (int64_t i = 0; i < shape.out; ++i) {
          before = std::max(before, std::abs(static_cast<double>(out.f32(row)[i])));
        }
      }
      const float beside = wide.view().f32(0)[3];
      backend_->matmul(in, *packed, out, into);
      reference_->matmul(in, *plain, expected.view(), into);
      EXPECT_EQ(wide.view().f32(0)[3], beside);
      expect_close(
          out, expected.view(),
          [&](int64_t row, int64_t col) {
            return relative * size.view().f32(row)[col] + 2 * kUnit * before;
          },
          "matmul");
    }
  }
}

TEST_P(MatmulTest, ARowDoesNotDependOnTheOthers) {
  if (dtype() == DType::kF32 && !cpu::rows_are_independent()) {
    GTEST_SKIP() << "in f32 only oneDNN's AVX-512 kernels promise it; this machine has none";
  }
  Random random(8);
  // So many inputs that the sums of 97 rows wait unfinished, those of few rows do not.
  constexpr int64_t kInputs = 4300;
  const HostBuffer x = normal_matrix(DType::kF32, 97, kInputs, random);
  const HostBuffer w = normal_matrix(DType::kF32, 192, kInputs, random);
  const Tensor parts[] = {w.view()};
  const auto packed = backend_->pack(parts, MatrixUse::kLayer);
  const HostBuffer all(DType::kF32, 97, 192), some(DType::kF32, 97, 192);
  backend_->matmul(x.view(), *packed, all.view(), Into::kOverwrite);
  for (const int64_t rows : {1, 2, 7, 16, 31, 64}) {
    backend_->matmul(x.first_rows(rows), *packed, some.first_rows(rows), Into::kOverwrite);
    expect_close(
        some.first_rows(rows), all.first_rows(rows), [](int64_t, int64_t) { return 0; },
        "matmul of some rows");
  }
}

TEST_P(MatmulTest, PacksEveryDtype) {
  Random random(9);
  const HostBuffer x = normal_matrix(DType::kF32, 3, 32, random);
  for (const DType part : {DType::kF32, DType::kBF16, DType::kF16}) {
    const HostBuffer w = normal_matrix(part, 16, 32, random);
    const HostBuffer plain(DType::kF32, 16, 32), out(DType::kF32, 3, 16),
        expected(DType::kF32, 3, 16);
    Batch every_row;
    every_row.tokens.resize(16);
    std::iota(every_row.tokens.begin(), every_row.tokens.end(), 0);
    reference_->embed(*reference_->adopt_embedding(w.view()), HostStepInput(every_row),
                      plain.view());
    const Tensor parts[] = {w.view()};
    backend_->matmul(x.view(), *backend_->pack(parts, MatrixUse::kLayer), out.view(),
                     Into::kOverwrite);
    reference_->matmul(x.view(), *reference_->pack(parts, MatrixUse::kLayer), expected.view(),
                       Into::kOverwrite);
    const HostBuffer size = absolute_product(*reference_, x.view(), plain.view());
    const double relative = 2 * 33 * kUnit + (dtype() == DType::kBF16 ? 2.01 * kUnitBf16 : 0);
    expect_close(
        out.view(), expected.view(),
        [&](int64_t row, int64_t col) { return relative * size.view().f32(row)[col]; },
        std::string("matmul of ") + std::string(name_of(part)));
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, MatmulTest, ::testing::ValuesIn(backend_cases()), name_of_case);

TEST(OpenBackend, ChoosesByCheckpointAndMachine) {
  const bool bf16 = cpu::pick_bf16_kernels() != nullptr;
  auto backend = open_backend({.checkpoint_dtype = DType::kBF16});
  ASSERT_TRUE(backend.ok());
  EXPECT_EQ((*backend)->info().name, "cpu");
  EXPECT_EQ((*backend)->precision().weights, bf16 ? WeightFormat::kBF16 : WeightFormat::kF32);
  EXPECT_EQ((*backend)->precision().cache, bf16 ? DType::kBF16 : DType::kF32);
  backend = open_backend({.name = "cpu", .checkpoint_dtype = DType::kF16, .cpu = {.count = 1}});
  EXPECT_EQ((*backend)->precision().weights, WeightFormat::kF32);
  backend = open_backend({.weights = WeightFormat::kF32, .checkpoint_dtype = DType::kBF16});
  EXPECT_EQ((*backend)->precision().weights, WeightFormat::kF32);
  EXPECT_EQ(open_backend({.weights = WeightFormat::kBF16}).ok(), bf16);
}

TEST(OpenBackend, RefusesWhatIsNotThere) {
  EXPECT_TRUE(absl::IsUnavailable(open_backend({.name = "cuda"}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(open_backend({.name = "tpu"}).status()));
  EXPECT_TRUE(absl::IsUnavailable(
      open_backend({.name = "reference", .weights = WeightFormat::kBF16}).status()));
}

}  // namespace
}  // namespace kascade::testing
