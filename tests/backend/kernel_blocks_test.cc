// Tests products with weights in GGUF's blocks: each set of kernels against the reference, bit by
// bit, and the reference against dequantised weights in f64.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "engine/backend/block_formats.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/quantization.h"
#include "engine/base/checksum.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/backends_under_test.h"
#include "tests/support/compare.h"
#include "tests/support/kernel_cases.h"
#include "tests/support/random_blocks.h"

namespace kascade::testing {
namespace {

std::vector<const cpu::IntegerKernels*> all_kernels() {
  std::vector<const cpu::IntegerKernels*> kernels(8);
  kernels.resize(static_cast<size_t>(cpu::usable_integer_kernels(kernels.data(), 8)));
  return kernels;
}

struct BlockCase {
  DType dtype;
  const cpu::IntegerKernels* kernels;
};

std::vector<BlockCase> block_cases() {
  std::vector<BlockCase> cases;
  for (const cpu::IntegerKernels* kernels : all_kernels()) {
    for (const DType dtype : kAllBlockDTypes) cases.push_back({dtype, kernels});
  }
  return cases;
}

HostBuffer product(Backend& backend, Tensor x, std::span<const Tensor> parts) {
  int64_t rows = 0;
  for (const Tensor& part : parts) rows += part.rows;
  HostBuffer out(DType::kF32, x.rows, rows);
  backend.matmul(x, *backend.pack(parts, MatrixUse::kLayer), out.view(), Into::kOverwrite);
  return out;
}

void expect_same_bits(const HostBuffer& found, const HostBuffer& wanted) {
  for (int64_t row = 0; row < wanted.view().rows; ++row) {
    for (int64_t col = 0; col < wanted.view().cols; ++col) {
      const float a = found.view().f32(row)[col], e = wanted.view().f32(row)[col];
      ASSERT_TRUE(a == e || (std::isnan(a) && std::isnan(e)))
          << "[" << row << ", " << col << "] is " << a << ", expected " << e;
    }
  }
}

class BlocksTest : public ::testing::TestWithParam<BlockCase> {
 protected:
  void expect_same(Tensor x, Tensor w) {
    const Tensor parts[] = {w.slice_rows(0, w.rows / 3),
                            w.slice_rows(w.rows / 3, w.rows - w.rows / 3)};
    expect_same_bits(product(*backend_, x, parts), product(*reference_, x, parts));
  }

  std::unique_ptr<Backend> backend_ = cpu::make_cpu_backend(
      {.weights = WeightFormat::kNative, .threads = 1, .integer_kernels = GetParam().kernels});
  std::unique_ptr<Backend> reference_ = make_reference_backend(WeightFormat::kNative);
};

TEST_P(BlocksTest, EqualsTheReferenceBitByBit) {
  Random random(11);
  const int64_t block = block_size_of(GetParam().dtype).inputs;
  std::vector<MatmulCase> cases = {{1, block, 1},
                                   {2, 3 * block, 17},
                                   {12, 2 * block, 48},
                                   {13, 5 * block, 3},
                                   {97, 9 * block, 40}};
  for (int64_t rows = 1; rows <= 30; ++rows) cases.push_back({rows, block, 33});
  // Longer than the inputs that stay in cache, so that sums are kept between two parts.
  cases.push_back({40, 4096 + block, 20});
  for (const MatmulCase& shape : cases) {
    const HostBuffer x = normal_matrix(DType::kF32, shape.rows, shape.in + 5, random);
    const HostBuffer w = random_blocks(GetParam().dtype, shape.out, shape.in, random);
    SCOPED_TRACE(::testing::Message() << shape.rows << "x" << shape.in << "x" << shape.out);
    expect_same(x.view().slice_cols(3, shape.in), w.view());
  }
}

TEST_P(BlocksTest, ExtremeScalesAndRows) {
  Random random(12);
  const HostBuffer x = normal_matrix(DType::kF32, 12, 512, random);
  const float values[] = {0,
                          1e-42f,
                          1e-33f,
                          1e30f,
                          std::numeric_limits<float>::quiet_NaN(),
                          -std::numeric_limits<float>::infinity()};
  for (int64_t row = 0; row < 6; ++row) std::fill_n(x.view().f32(row) + 32, 32, values[row]);
  for (const float size : {0.0f, 1e-8f, 1e-4f, 2000.0f}) {
    const HostBuffer w = random_blocks(GetParam().dtype, 40, 512, random, size);
    expect_same(x.view(), w.view());
  }
  // The largest and smallest levels everywhere.
  for (const int byte : {0x00, 0xff}) {
    HostBuffer w = random_blocks(GetParam().dtype, 20, 512, random);
    const BlockSize block = block_size_of(GetParam().dtype);
    const int64_t scales = GetParam().dtype == DType::kQ6_K ? 0 : 4;
    for (int64_t at = 0; at < w.bytes(); at += block.bytes) {
      std::memset(static_cast<std::byte*>(w.view().data) + at + scales, byte,
                  static_cast<size_t>(block.bytes - 4));
    }
    expect_same(x.view(), w.view());
  }
}

TEST_P(BlocksTest, ARowDoesNotDependOnTheOthers) {
  Random random(14);
  const HostBuffer x = normal_matrix(DType::kF32, 130, 768, random);
  const HostBuffer w = random_blocks(GetParam().dtype, 70, 768, random);
  const Tensor parts[] = {w.view()};
  const auto packed = backend_->pack(parts, MatrixUse::kLayer);
  const HostBuffer all(DType::kF32, 130, 70), some(DType::kF32, 130, 70);
  std::fill_n(all.view().f32(0), 130 * 70, 0.25f);
  backend_->matmul(x.view(), *packed, all.view(), Into::kAdd);
  for (int64_t rows = 1; rows <= 64; rows += rows < 26 ? 1 : 38) {
    const int64_t first = 130 - rows;
    std::fill_n(some.view().f32(0), 130 * 70, 0.25f);
    backend_->matmul(x.view().slice_rows(first, rows), *packed, some.first_rows(rows), Into::kAdd);
    ASSERT_EQ(std::memcmp(some.view().f32(0), all.view().f32(first),
                          static_cast<size_t>(rows * 70) * sizeof(float)),
              0)
        << rows << " rows";
  }
}

// A panel has as many bits per weight as the file.
TEST_P(BlocksTest, TakesTheBytesOfTheFile) {
  Random random(16);
  const HostBuffer w = random_blocks(GetParam().dtype, 64, 512, random);
  const Tensor parts[] = {w.view()};
  EXPECT_EQ(backend_->pack(parts, MatrixUse::kLayer)->bytes(), w.bytes());
}

INSTANTIATE_TEST_SUITE_P(Cpu, BlocksTest, ::testing::ValuesIn(block_cases()), [](const auto& test) {
  return std::string(name_of(test.param.dtype)) + "_" + test.param.kernels->isa;
});

// What the levels and scales of x stand for.
std::vector<double> rounded_row(const float* x, int64_t size) {
  std::vector<int8_t> levels(static_cast<size_t>(size));
  std::vector<float> scales(levels.size() / kBlockGroup);
  quantize_int8_groups(x, size, kBlockGroup, levels.data(), scales.data());
  std::vector<double> values;
  for (size_t i = 0; i < levels.size(); ++i) {
    values.push_back(double{static_cast<float>(levels[i])} * double{scales[i / kBlockGroup]});
  }
  return values;
}

// The product is that of the dequantised weights and the rounded row, but for the rounding of f32:
// a sum has at most four roundings per group.
TEST(BlockProducts, AreThoseOfDequantisedWeights) {
  Random random(15);
  const auto backend = make_reference_backend(WeightFormat::kNative);
  const int64_t inputs = 1024;
  for (const DType dtype : kAllBlockDTypes) {
    const HostBuffer x = normal_matrix(DType::kF32, 5, inputs, random);
    const HostBuffer w = random_blocks(dtype, 24, inputs, random);
    const Tensor parts[] = {w.view()};
    const HostBuffer out = product(*backend, x.view(), parts);
    std::vector<float> weights(static_cast<size_t>(inputs));
    for (int64_t o = 0; o < 24; ++o) {
      dequantize_row(dtype, w.view().row<std::byte>(o), inputs, weights.data());
      for (int64_t row = 0; row < 5; ++row) {
        const std::vector<double> values = rounded_row(x.view().f32(row), inputs);
        double sum = 0, magnitudes = 0;
        for (size_t i = 0; i < values.size(); ++i) {
          sum += values[i] * double{weights[i]};
          magnitudes += std::abs(values[i]) * std::abs(double{weights[i]});
        }
        // Minima make terms that are larger than their difference.
        EXPECT_NEAR(out.view().f32(row)[o], sum,
                    4 * kUnit * (inputs / kBlockGroup) * 4 * magnitudes)
            << name_of(dtype);
      }
    }
  }
}

// The packed bytes of parts of one format and of several make the same matrix again.
TEST(PackedBlocks, AreAdopted) {
  Random random(19);
  const auto backend = cpu::make_cpu_backend({.weights = WeightFormat::kNative, .threads = 1});
  const HostBuffer x = normal_matrix(DType::kF32, 3, 512, random);
  for (const DType dtype : kAllBlockDTypes) {
    const HostBuffer first = random_blocks(dtype, 37, 512, random);
    const HostBuffer second = random_blocks(DType::kQ6_K, 5, 512, random);
    const Tensor parts[] = {first.view(), second.view()};
    const auto packed = backend->pack(parts, MatrixUse::kLayer);
    const auto form = backend->packed_form(parts, MatrixUse::kLayer);
    ASSERT_TRUE(form.has_value());
    const std::string name(name_of(dtype));
    EXPECT_EQ(form->name, name == "Q6_K" ? "Q6_K-panels-1" : name + "-panels-1+Q6_K-panels-1");
    EXPECT_EQ(form->bytes, static_cast<int64_t>(packed->packed().size()));
    EXPECT_EQ(form->bytes % 64, 0);
    const HostBuffer memory(DType::kF32, 1, form->bytes / 4);
    std::memcpy(memory.view().data, packed->packed().data(), packed->packed().size());
    const Tensor shapes[] = {{nullptr, dtype, 37, 512, first.view().stride},
                             {nullptr, DType::kQ6_K, 5, 512, second.view().stride}};
    const auto adopted = backend->adopt({memory.view().row<std::byte>(0), packed->packed().size()},
                                        shapes, MatrixUse::kLayer);
    EXPECT_EQ(adopted->bytes(), packed->bytes());
    const HostBuffer found(DType::kF32, 3, 42), wanted(DType::kF32, 3, 42);
    backend->matmul(x.view(), *adopted, found.view(), Into::kOverwrite);
    backend->matmul(x.view(), *packed, wanted.view(), Into::kOverwrite);
    expect_same_bits(found, wanted);
  }
}

// As PackedForms.AreWhatTheirNamesSay: the bytes of a form may only change together with its name.
TEST(PackedBlocks, AreWhatTheirNamesSay) {
  const uint64_t sums[] = {10225467048371724401u, 946819557791040750u,  2209417461707801075u,
                           1884123554039336934u,  8831119687205881607u, 1366039124054878579u,
                           7917514316751423284u,  4067378972681020403u};
  const auto backend = cpu::make_cpu_backend({.weights = WeightFormat::kNative, .threads = 1});
  for (const DType dtype : kAllBlockDTypes) {
    const HostBuffer w(dtype, 21, 768);
    auto* bytes = static_cast<std::byte*>(w.view().data);
    for (int64_t i = 0; i < w.bytes(); ++i) {
      bytes[i] = static_cast<std::byte>(static_cast<uint32_t>(i) * 2654435761u >> 24);
    }
    const Tensor parts[] = {w.view()};
    const size_t index = static_cast<size_t>(dtype) - static_cast<size_t>(DType::kQ8_0);
    EXPECT_EQ(checksum(backend->pack(parts, MatrixUse::kLayer)->packed()), sums[index])
        << "of " << name_of(dtype) << ": the bytes have changed, so must the name of the form";
  }
}

// f16 is multiplied in f32, whose layout has no meaning in another process.
TEST(PackedBlocks, AreNotKeptBesideF16) {
  Random random(20);
  const auto backend = cpu::make_cpu_backend({.weights = WeightFormat::kNative, .threads = 1});
  const HostBuffer first = random_blocks(DType::kQ8_0, 4, 64, random);
  const HostBuffer second = normal_matrix(DType::kF16, 4, 64, random);
  const Tensor parts[] = {first.view(), second.view()};
  EXPECT_FALSE(backend->packed_form(parts, MatrixUse::kLayer).has_value());
  EXPECT_TRUE(backend->pack(parts, MatrixUse::kLayer)->packed().empty());
  EXPECT_EQ(backend->adopt({}, parts, MatrixUse::kLayer), nullptr);
}

TEST(BlockProducts, PartsOfDifferentFormatsLieBelowEachOther) {
  Random random(18);
  const HostBuffer x = normal_matrix(DType::kF32, 20, 512, random);
  const HostBuffer first = random_blocks(DType::kQ4_K, 40, 512, random);
  const HostBuffer second = random_blocks(DType::kQ6_K, 24, 512, random);
  const HostBuffer third = normal_matrix(DType::kF16, 8, 512, random);
  const Tensor parts[] = {first.view(), second.view(), third.view()};
  for (const auto& backend :
       {cpu::make_cpu_backend({.weights = WeightFormat::kNative, .threads = 2}),
        make_reference_backend(WeightFormat::kNative)}) {
    const HostBuffer all = product(*backend, x.view(), parts);
    int64_t column = 0;
    for (const Tensor& part : parts) {
      const HostBuffer alone = product(*backend, x.view(), {&part, 1});
      for (int64_t row = 0; row < 20; ++row) {
        ASSERT_EQ(std::memcmp(all.view().f32(row) + column, alone.view().f32(row),
                              static_cast<size_t>(part.rows) * sizeof(float)),
                  0);
      }
      column += part.rows;
    }
  }
}

TEST(BlockProducts, OtherFormatsTakeTheDequantisedWeights) {
  Random random(19);
  const HostBuffer x = normal_matrix(DType::kF32, 7, 512, random);
  for (const DType dtype : kAllBlockDTypes) {
    const HostBuffer w = random_blocks(dtype, 20, 512, random);
    const HostBuffer f32(DType::kF32, 20, 512);
    for (int64_t o = 0; o < 20; ++o) {
      dequantize_row(dtype, w.view().row<std::byte>(o), 512, f32.view().f32(o));
    }
    const Tensor blocks[] = {w.view()}, plain[] = {f32.view()};
    for (const WeightFormat format :
         {WeightFormat::kF32, WeightFormat::kInt8, WeightFormat::kInt4}) {
      const auto backend = cpu::make_cpu_backend({.weights = format, .threads = 1});
      expect_same_bits(product(*backend, x.view(), blocks), product(*backend, x.view(), plain));
    }
  }
}

}  // namespace
}  // namespace kascade::testing
