// The kernels that multiply bf16 by bf16, called by themselves: awkward shapes against sums in
// double precision, and the promise that a row's bits are its own.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "engine/backend/cpu/kernels.h"
#include "engine/backend/host/host_buffer.h"
#include "gtest/gtest.h"
#include "tests/support/compare.h"
#include "tests/support/kernel_cases.h"

namespace kascade::testing {
namespace {

// By how much the kernels' powers of two may be off, relative to themselves.
constexpr double kRoughPower = 1.1e-4;

struct HeadShape {
  int32_t dim = 64;
  int32_t group = 4;
  int32_t rows = 1;
  int32_t depth = 0;  // keys before the first row
};
std::string name_of(const HeadShape& shape) {
  return std::to_string(shape.group) + " × " + std::to_string(shape.dim) + ", " +
         std::to_string(shape.rows) + " rows at " + std::to_string(shape.depth);
}

// One KV head of a paged cache of two. All but its keys is NaN.
class HeadData {
 public:
  explicit HeadData(const HeadShape& shape, float deviation = 1.5f, uint32_t seed = 1)
      : shape_(shape), random_(seed) {
    blocks_.resize(static_cast<size_t>((keys() + kBlockSize - 1) / kBlockSize));
    std::iota(blocks_.begin(), blocks_.end(), 0);
    std::shuffle(blocks_.begin(), blocks_.end(), random_);
    const int64_t slots = static_cast<int64_t>(blocks_.size()) * kBlockSize * kKvHeads;
    keys_ = HostBuffer(DType::kBF16, slots, shape.dim);
    values_ = HostBuffer(DType::kBF16, slots, shape.dim);
    const uint16_t nan = to_bf16(std::numeric_limits<float>::quiet_NaN());
    std::fill_n(keys_.view().bf16(0), slots * shape.dim, nan);
    std::fill_n(values_.view().bf16(0), slots * shape.dim, nan);
    for (int32_t position = 0; position < keys(); ++position) {
      fill_normal(keys_.view().slice_rows(row_of(position), 1), 1, random_);
      fill_normal(values_.view().slice_rows(row_of(position), 1), 1, random_);
    }
    q_ = normal_matrix(DType::kF32, shape.rows, width(), random_, deviation);
  }

  int32_t keys() const { return shape_.depth + shape_.rows; }
  int64_t width() const { return static_cast<int64_t>(shape_.group) * shape_.dim; }
  cpu::KeyList dense() const { return {.own_end = keys()}; }

  // A third of the keys from `sinks` up to the first row, as a list.
  cpu::KeyList gathered(int32_t sinks) {
    std::vector<int32_t> all(static_cast<size_t>(std::max(shape_.depth - sinks, 0)));
    std::iota(all.begin(), all.end(), sinks);
    chosen_.clear();
    std::sample(all.begin(), all.end(), std::back_inserter(chosen_), all.size() / 3, random_);
    return {std::min(sinks, shape_.depth), chosen_.data(), static_cast<int32_t>(chosen_.size()),
            shape_.depth, keys()};
  }

  // Rows [first, first + count) as one call, to the same rows of `out`.
  void attend(const cpu::Kernels& kernels, cpu::KeyList list, int32_t first, int32_t count,
              Tensor out) const {
    const cpu::Queries queries{q_.view().f32(first), width(),    count,
                               shape_.group,         shape_.dim, shape_.depth + first};
    list.own_end = std::min(list.own_end, shape_.depth + first + count);
    const HostBuffer workspace(DType::kF32, 1,
                               kernels.workspace_size(queries, cpu::CacheFormat::kBF16, 0));
    kernels.attend(queries, cache(), list, out.f32(first), width(), workspace.view().f32(0));
  }

  // One row as several threads share it, the last part first.
  void attend_in_parts(const cpu::Kernels& kernels, cpu::KeyList list, int32_t row,
                       Tensor out) const {
    const cpu::Queries queries{q_.view().f32(row), width(),    1,
                               shape_.group,       shape_.dim, shape_.depth + row};
    list.own_end = std::min(list.own_end, shape_.depth + row + 1);
    const int32_t count = list.sinks + list.chosen_count + list.own_end - list.own_begin;
    const int32_t parts = (count + cpu::kKeySplit - 1) / cpu::kKeySplit;
    const int64_t size = kernels.partial_size(queries);
    const HostBuffer workspace(DType::kF32, 1,
                               kernels.workspace_size(queries, cpu::CacheFormat::kBF16, 0));
    const HostBuffer partials(DType::kF32, parts, size);
    for (int32_t part = parts - 1; part >= 0; --part) {
      kernels.attend_part(queries, cache(), list, part * cpu::kKeySplit, workspace.view().f32(0),
                          partials.view().f32(part));
    }
    kernels.merge_parts(queries, partials.view().f32(0), parts, workspace.view().f32(0),
                        out.f32(row));
  }

  // One query in double precision, with q rounded as the kernels do: Σ p·v and Σ p·|v|.
  void attend_exactly(const cpu::KeyList& list, int32_t row, int32_t head, std::vector<double>& out,
                      std::vector<double>& size) const {
    const float scale = 1.44269504f / std::sqrt(static_cast<float>(shape_.dim));
    const float* q = q_.view().f32(row) + static_cast<int64_t>(head) * shape_.dim;
    std::vector<double> logits;
    std::vector<int64_t> rows;
    const auto add = [&](int32_t position) {
      if (position > shape_.depth + row) return;
      rows.push_back(row_of(position));
      double dot = 0;
      for (int32_t d = 0; d < shape_.dim; ++d) {
        dot +=
            1.0 * from_bf16(to_bf16(q[d] * scale)) * from_bf16(keys_.view().bf16(rows.back())[d]);
      }
      logits.push_back(dot);
    };
    for (int32_t key = 0; key < list.sinks; ++key) add(key);
    std::for_each_n(list.chosen, list.chosen_count, add);
    for (int32_t key = list.own_begin; key < list.own_end; ++key) add(key);
    const double top = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (double& logit : logits) sum += logit = std::exp2(logit - top);
    out.assign(static_cast<size_t>(shape_.dim), 0);
    size.assign(static_cast<size_t>(shape_.dim), 0);
    for (size_t j = 0; j < rows.size(); ++j) {
      for (int32_t d = 0; d < shape_.dim; ++d) {
        const double value = from_bf16(values_.view().bf16(rows[j])[d]);
        out[static_cast<size_t>(d)] += logits[j] / sum * value;
        size[static_cast<size_t>(d)] += logits[j] / sum * std::abs(value);
      }
    }
  }

 private:
  static constexpr int32_t kBlockSize = 16, kKvHeads = 2, kKvHead = 1;

  cpu::CachedRows cache() const {
    return {keys_.view().data,
            values_.view().data,
            cpu::CacheFormat::kBF16,
            shape_.dim,
            shape_.dim,
            blocks_.data(),
            kBlockSize,
            kKvHeads,
            kKvHead};
  }

  int64_t row_of(int32_t position) const {
    const int64_t block = blocks_[static_cast<size_t>(position / kBlockSize)];
    return (block * kKvHeads + kKvHead) * kBlockSize + position % kBlockSize;
  }

  HeadShape shape_;
  Random random_;
  std::vector<int32_t> blocks_{}, chosen_{};
  HostBuffer keys_{}, values_{}, q_{};
};

class Bf16KernelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const cpu::Kernels* usable[8];
    const int32_t count = cpu::usable_kernels(usable, 8);
    for (int32_t i = 0; i < count; ++i) {
      if (std::string(usable[i]->isa) == "avx512bf16") kernels_ = usable[i];
    }
    if (kernels_ == nullptr) GTEST_SKIP() << "no bf16 dot product on this machine";
  }

  // The first, a middle and the last row. A logit of |l| bits is off by D products' roundings of
  // what may cancel, here at most kLogit · u; p by its rounding to bf16 and the rough power, above
  // and below the division.
  void expect_close_to_exact(const HeadData& data, const HeadShape& shape, const cpu::KeyList& list,
                             double logit_error, const std::string& what) {
    const HostBuffer out(DType::kF32, shape.rows, data.width());
    data.attend(*kernels_, list, 0, shape.rows, out.view());
    const double relative =
        2 * (kUnitBf16 + kRoughPower) + 2 * logit_error + 2.0 * data.keys() * kUnit;
    std::vector<double> exact, size;
    for (const int32_t row : {0, shape.rows / 2, shape.rows - 1}) {
      const int32_t head = row % shape.group;
      data.attend_exactly(list, row, head, exact, size);
      for (int32_t d = 0; d < shape.dim; ++d) {
        const auto at = static_cast<size_t>(d);
        ASSERT_NEAR(out.view().f32(row)[head * shape.dim + d], exact[at], relative * size[at])
            << what << ", row " << row << ", component " << d;
      }
    }
  }

  // Each row alone, and the tile in two parts.
  void expect_own_bits(const HeadData& data, const HeadShape& shape, const cpu::KeyList& list,
                       const std::string& what) {
    const HostBuffer whole(DType::kF32, shape.rows, data.width());
    const HostBuffer alone(DType::kF32, shape.rows, data.width());
    const HostBuffer parts(DType::kF32, shape.rows, data.width());
    data.attend(*kernels_, list, 0, shape.rows, whole.view());
    for (int32_t row = 0; row < shape.rows; ++row) {
      data.attend(*kernels_, list, row, 1, alone.view());
    }
    const int32_t half = shape.rows / 3;
    if (half > 0) data.attend(*kernels_, list, 0, half, parts.view());
    data.attend(*kernels_, list, half, shape.rows - half, parts.view());
    const size_t bytes = static_cast<size_t>(shape.rows * data.width()) * sizeof(float);
    ASSERT_EQ(std::memcmp(whole.view().f32(0), alone.view().f32(0), bytes), 0) << what;
    ASSERT_EQ(std::memcmp(whole.view().f32(0), parts.view().f32(0), bytes), 0) << what;
  }

  const cpu::Kernels* kernels_ = nullptr;
};

std::vector<HeadShape> head_shapes() {
  std::vector<HeadShape> shapes;
  for (const int32_t dim : {2, 7, 32, 64, 80, 96, 128, 131}) {
    for (const int32_t group : {1, 2, 3, 4, 8}) {
      for (const int32_t rows : {1, 2, 5, 16, 33}) {
        for (const int32_t depth : {0, 1, 62, 63, 64, 65, 200}) {
          shapes.push_back({dim, group, rows, depth});
        }
      }
    }
  }
  return shapes;
}

// (D + 3) · u · Σ|q·k| in bits: with |q| of up to 1.5 · √D · 2 and |k| of up to √D · 2, scaled by
// log₂ e / √D.
double logit_error(const HeadShape& shape, double deviation = 1.5) {
  return (shape.dim + 3) * kUnit * 4 * deviation * 1.4427 * std::sqrt(std::max(shape.dim, 16));
}

TEST_F(Bf16KernelTest, DenseOfAwkwardShapes) {
  for (const HeadShape& shape : head_shapes()) {
    const HeadData data(shape);
    expect_close_to_exact(data, shape, data.dense(), logit_error(shape), name_of(shape));
    expect_own_bits(data, shape, data.dense(), name_of(shape));
    if (HasFatalFailure()) return;
  }
}

TEST_F(Bf16KernelTest, GatheredOfAwkwardShapes) {
  for (const HeadShape& shape : head_shapes()) {
    HeadData data(shape);
    for (const int32_t sinks : {0, 3}) {
      const cpu::KeyList list = data.gathered(sinks);
      const std::string what = "gathered " + name_of(shape);
      expect_close_to_exact(data, shape, list, logit_error(shape), what);
      expect_own_bits(data, shape, list, what);
      if (HasFatalFailure()) return;
    }
  }
}

// Logits of some ±80 · √D: all of the weight on few keys, which change as the maximum grows.
TEST_F(Bf16KernelTest, LargeLogits) {
  for (const int32_t rows : {1, 33}) {
    for (const int32_t dim : {64, 128}) {
      const HeadShape shape{dim, 4, rows, 500};
      const HeadData data(shape, 80);
      expect_close_to_exact(data, shape, data.dense(), logit_error(shape, 80), name_of(shape));
      expect_own_bits(data, shape, data.dense(), name_of(shape));
    }
  }
}

// Many blocks: a sum of many keys keeps its accuracy.
TEST_F(Bf16KernelTest, ManyKeys) {
  for (const int32_t rows : {1, 20}) {
    const HeadShape shape{64, 2, rows, 20000};
    HeadData data(shape);
    expect_close_to_exact(data, shape, data.dense(), logit_error(shape), name_of(shape));
    expect_own_bits(data, shape, data.dense(), name_of(shape));
    const cpu::KeyList list = data.gathered(4);
    expect_close_to_exact(data, shape, list, logit_error(shape), name_of(shape));
    expect_own_bits(data, shape, list, name_of(shape));
  }
}

// A split that ends among the tile's own rows: the first of them see nothing of the next one.
TEST_F(Bf16KernelTest, ASplitWithinTheTilesOwnRows) {
  const HeadShape dense{64, 2, 20, cpu::kKeySplit - 7};
  const HeadData data(dense);
  expect_close_to_exact(data, dense, data.dense(), logit_error(dense), name_of(dense));
  expect_own_bits(data, dense, data.dense(), name_of(dense));
  const HeadShape gathered{64, 2, 20, 3 * (cpu::kKeySplit - 7)};  // a third of them is chosen
  HeadData chosen(gathered);
  const cpu::KeyList list = chosen.gathered(0);
  ASSERT_EQ(list.chosen_count, cpu::kKeySplit - 7);
  expect_close_to_exact(chosen, gathered, list, logit_error(gathered), name_of(gathered));
  expect_own_bits(chosen, gathered, list, name_of(gathered));
}

// Threads may share the keys of a row. What ends a split exactly, and what goes a little further.
TEST_F(Bf16KernelTest, ARowInPartsHasTheBitsOfAWholeOne) {
  for (const int32_t keys : {cpu::kKeySplit, 2 * cpu::kKeySplit + 1, 3 * cpu::kKeySplit - 5}) {
    for (const int32_t dim : {7, 64}) {
      const HeadShape shape{dim, 3, 4, keys - 4};
      HeadData data(shape, 4);
      for (const cpu::KeyList& list : {data.dense(), data.gathered(3)}) {
        const HostBuffer whole(DType::kF32, shape.rows, data.width());
        const HostBuffer parts(DType::kF32, shape.rows, data.width());
        data.attend(*kernels_, list, 0, shape.rows, whole.view());
        for (int32_t row = 0; row < shape.rows; ++row) {
          data.attend_in_parts(*kernels_, list, row, parts.view());
        }
        const size_t bytes = static_cast<size_t>(shape.rows * data.width()) * sizeof(float);
        EXPECT_EQ(std::memcmp(whole.view().f32(0), parts.view().f32(0), bytes), 0) << keys;
      }
    }
  }
}

// Rows before all keys of their list attend to nothing.
TEST_F(Bf16KernelTest, NoKeys) {
  for (const int32_t rows : {1, 8}) {
    const HeadShape shape{64, 4, rows, 10};
    const HeadData data(shape);
    const HostBuffer out(DType::kF32, rows, data.width());
    std::fill_n(out.view().f32(0), rows * data.width(), 1.0f);
    data.attend(*kernels_, {.own_begin = data.keys(), .own_end = data.keys()}, 0, rows, out.view());
    const float* first = out.view().f32(0);
    EXPECT_TRUE(std::all_of(first, first + rows * data.width(), [](float x) { return x == 0; }));
  }
}

}  // namespace
}  // namespace kascade::testing
