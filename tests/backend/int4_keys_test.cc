// Tests the 4-bit copy of the keys: the kernels against its definition in
// engine/backend/int4_keys.h, and what backends write and select by it.
#include "engine/backend/int4_keys.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "engine/attention/kascade.h"
#include "engine/backend/cpu/cpu.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/backend/quantization.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/backends_under_test.h"
#include "tests/support/kernel_cases.h"

namespace kascade::testing {
namespace {

constexpr int32_t kDims[] = {1, 4, 7, 8, 12, 16, 20, 64, 80, 96, 128, 200, 256, 320};

std::vector<const cpu::Kernels*> all_kernel_sets() {
  std::vector<const cpu::Kernels*> sets(8);
  sets.resize(static_cast<size_t>(cpu::usable_kernels(sets.data(), 8)));
  return sets;
}

std::vector<float> normal_values(size_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(Int4Keys, LevelsAndScaleOfAKey) {
  // A block of one component is not rotated, apart from its sign.
  std::vector<int32_t> panel(static_cast<size_t>(int4_key_panel_words(1)));
  const float key = 3.5f;
  write_int4_key(&key, 1, 5, panel.data());
  int8_t level = 0;
  EXPECT_EQ(read_int4_key(panel.data(), 1, 5, &level), 0.5f);
  EXPECT_EQ(level, changes_sign(0) ? -7 : 7);
}

TEST(Int4Keys, ErrorIsAtMostHalfALevel) {
  std::mt19937 random(1);
  for (const int32_t dim : kDims) {
    std::vector<int32_t> panel(static_cast<size_t>(int4_key_panel_words(dim)));
    std::vector<float> key = normal_values(static_cast<size_t>(dim), random);
    write_int4_key(key.data(), dim, 3, panel.data());
    std::vector<int8_t> levels(key.size());
    const float scale = read_int4_key(panel.data(), dim, 3, levels.data());
    rotate_inputs(key.data(), dim);
    for (size_t i = 0; i < key.size(); ++i) {
      // The scale was rounded to bf16 by at most 2⁻⁸, which counts for up to 7 levels.
      EXPECT_LE(std::abs(key[i] - scale * levels[i]), scale * (0.5f + 7 * 0x1p-8f)) << dim;
    }
  }
}

// Keys whose values have no level, too.
std::vector<std::vector<float>> keys_of_all_kinds(int32_t dim, std::mt19937& random) {
  std::vector<std::vector<float>> keys;
  for (int i = 0; i < 12; ++i) keys.push_back(normal_values(static_cast<size_t>(dim), random));
  const auto constant = [&](float value) {
    return std::vector<float>(static_cast<size_t>(dim), value);
  };
  keys.push_back(constant(0));
  keys.push_back(constant(1e-38f));
  keys.push_back(constant(1e30f));
  keys.push_back(constant(1));
  keys.back()[0] = std::numeric_limits<float>::quiet_NaN();
  return keys;
}

TEST(Int4Keys, KernelsWriteWhatTheDefinitionSays) {
  std::mt19937 random(2);
  for (const int32_t dim : kDims) {
    const auto keys = keys_of_all_kinds(dim, random);
    ASSERT_EQ(keys.size(), static_cast<size_t>(kInt4KeyPanel));
    const auto words = static_cast<size_t>(int4_key_panel_words(dim));
    std::vector<int32_t> expected(words);
    for (int32_t slot = 0; slot < kInt4KeyPanel; ++slot) {
      write_int4_key(keys[static_cast<size_t>(slot)].data(), dim, slot, expected.data());
    }
    for (const cpu::Kernels* kernels : all_kernel_sets()) {
      std::vector<int32_t> panel(words);
      std::vector<float> rotated(static_cast<size_t>(dim));
      for (int32_t slot = 0; slot < kInt4KeyPanel; ++slot) {
        kernels->write_int4_key(keys[static_cast<size_t>(slot)].data(), dim, slot, panel.data(),
                                rotated.data());
      }
      EXPECT_EQ(panel, expected) << kernels->isa << ", " << dim;
    }
  }
}

// A cache of one KV head whose blocks are in random order, with random keys.
struct KeyCopy {
  KeyCopy(int32_t keys, int32_t block_size, int32_t head_dim, std::mt19937& random)
      : dim(head_dim), size(block_size) {
    blocks.resize(static_cast<size_t>((keys + size - 1) / size));
    std::iota(blocks.begin(), blocks.end(), 0);
    std::ranges::shuffle(blocks, random);
    // What no key was written to must not matter.
    panels.assign(blocks.size() * static_cast<size_t>(int4_key_panels(size) * words()), -1);
    for (int32_t key = 0; key < keys; ++key) {
      write_int4_key(normal_values(static_cast<size_t>(dim), random).data(), dim,
                     key % size % kInt4KeyPanel, panel_of(key));
    }
  }
  int64_t words() const { return int4_key_panel_words(dim); }
  int32_t* panel_of(int32_t key) {
    const int64_t panel = int64_t{blocks[static_cast<size_t>(key / size)]} * int4_key_panels(size) +
                          key % size / kInt4KeyPanel;
    return panels.data() + panel * words();
  }
  cpu::Int4KeyRows rows() const {
    return {.panels = panels.data(),
            .panel_words = words(),
            .blocks = blocks.data(),
            .block_size = size,
            .kv_heads = 1};
  }

  int32_t dim;
  int32_t size;
  std::vector<int32_t> blocks{};
  std::vector<int32_t> panels{};
};

// The probabilities of one query, in f64 from the logits that the definition gives in f32.
std::vector<double> defined_probabilities(const float* query, int32_t causal, KeyCopy& copy) {
  std::vector<int8_t> levels(static_cast<size_t>(copy.dim)), key_levels(levels.size());
  const float scale = quantize_query(query, copy.dim, levels.data());
  std::vector<double> p;
  for (int32_t key = 0; key < causal; ++key) {
    const float key_scale = read_int4_key(copy.panel_of(key), copy.dim,
                                          key % copy.size % kInt4KeyPanel, key_levels.data());
    const int32_t sum = std::inner_product(levels.begin(), levels.end(), key_levels.begin(), 0);
    p.push_back(static_cast<float>(sum) * key_scale *
                (scale / std::sqrt(static_cast<float>(copy.dim))));
  }
  const double largest = *std::ranges::max_element(p);
  double total = 0;
  for (double& value : p) total += value = std::exp(value - largest);
  for (double& value : p) value /= total;
  return p;
}

std::vector<double> defined_scores(const cpu::Queries& queries, cpu::Pool pooling, KeyCopy& copy) {
  std::vector<double> scores(static_cast<size_t>(queries.first_position + queries.rows));
  for (int32_t row = 0; row < queries.rows; ++row) {
    for (int32_t head = 0; head < queries.heads; ++head) {
      const auto p = defined_probabilities(queries.q + row * queries.stride + head * queries.dim,
                                           queries.first_position + row + 1, copy);
      for (size_t j = 0; j < p.size(); ++j) {
        scores[j] = pooling == cpu::Pool::kSum ? scores[j] + p[j] : std::max(scores[j], p[j]);
      }
    }
  }
  return scores;
}

struct PoolCase {
  int32_t dim, heads, rows, first_position, block_size;
};

void expect_scores_as_defined(const PoolCase& shape, std::mt19937& random) {
  const int32_t keys = shape.first_position + shape.rows;
  KeyCopy copy(keys, shape.block_size, shape.dim, random);
  const int64_t stride = int64_t{shape.heads} * shape.dim + 3;
  const std::vector<float> q = normal_values(static_cast<size_t>(stride * shape.rows), random);
  const cpu::Queries queries{q.data(),    stride,    shape.rows,
                             shape.heads, shape.dim, shape.first_position};
  for (const cpu::Pool pooling : {cpu::Pool::kSum, cpu::Pool::kMax}) {
    const std::vector<double> expected = defined_scores(queries, pooling, copy);
    // Errors of a probability, relative: 1.1e-4 of each power (rough_exp2()), also in the sum, the
    // rounding of its argument (logits are below 32 in size), and sums of `keys` and of rows ·
    // heads terms.
    const double relative = 2.2e-4 + 0x1p-23 * (2 + 64 + keys / 4.0 + shape.rows * shape.heads);
    for (const cpu::Kernels* kernels : all_kernel_sets()) {
      HostBuffer room(DType::kF32, 1, kernels->int4_pool_workspace_size(queries, keys));
      std::vector<float> scores(static_cast<size_t>(keys) + 1, -7);
      kernels->pool_int4_keys(queries, copy.rows(), pooling, scores.data(), room.view().f32(0));
      EXPECT_EQ(scores.back(), -7) << "written past the last key";
      for (size_t j = 0; j < expected.size(); ++j) {
        ASSERT_NEAR(scores[j], expected[j], relative * expected[j] + 1e-30)
            << kernels->isa << ", key " << j << " of " << keys << ", dim " << shape.dim
            << ", heads " << shape.heads << ", rows " << shape.rows << ", blocks of "
            << shape.block_size;
      }
    }
  }
}

TEST(Int4Keys, KernelsScoreAsTheDefinitionSays) {
  std::mt19937 random(3);
  for (const PoolCase& shape :
       {PoolCase{64, 3, 1, 0, 32}, PoolCase{64, 3, 1, 1000, 32}, PoolCase{64, 3, 32, 96, 32},
        PoolCase{128, 6, 1, 517, 16}, PoolCase{128, 4, 7, 300, 64}, PoolCase{96, 1, 1, 77, 1},
        PoolCase{80, 2, 5, 40, 5}, PoolCase{7, 5, 3, 33, 24}, PoolCase{256, 1, 2, 90, 40},
        PoolCase{1, 1, 1, 20, 32}, PoolCase{12, 9, 13, 64, 128}}) {
    expect_scores_as_defined(shape, random);
  }
}

TEST(Int4Keys, PartsOfARowGiveTheSameBits) {
  std::mt19937 random(4);
  for (const int32_t position : {0, 100, cpu::kInt4KeySplit - 1, 2 * cpu::kInt4KeySplit + 500}) {
    const PoolCase shape{64, position % 7 + 1, 1, position, position == 100 ? 16 : 32};
    KeyCopy copy(position + 1, shape.block_size, shape.dim, random);
    const std::vector<float> q =
        normal_values(static_cast<size_t>(shape.heads * shape.dim), random);
    const cpu::Queries queries{q.data(), 0, 1, shape.heads, shape.dim, position};
    for (const cpu::Kernels* kernels : all_kernel_sets()) {
      HostBuffer room(DType::kF32, 1, kernels->int4_pool_workspace_size(queries, position + 1));
      HostBuffer powers(DType::kF32, 1, kernels->int4_powers_size(queries, position + 1));
      for (const cpu::Pool pooling : {cpu::Pool::kSum, cpu::Pool::kMax}) {
        std::vector<float> whole(static_cast<size_t>(position) + 1), shared(whole.size(), -7);
        kernels->pool_int4_keys(queries, copy.rows(), pooling, whole.data(), room.view().f32(0));
        for (int32_t begin = position / cpu::kInt4KeySplit * cpu::kInt4KeySplit; begin >= 0;
             begin -= cpu::kInt4KeySplit) {
          kernels->int4_powers(queries, copy.rows(), begin, room.view().f32(0),
                               powers.view().f32(0));
        }
        kernels->pool_int4_powers(queries, pooling, powers.view().f32(0), shared.data());
        EXPECT_EQ(shared, whole) << kernels->isa << ", " << position;
      }
    }
  }
}

// ---- Backends ----

// The copy of every cached key, made from the keys that write_kv() receives.
class CopiedCache {
 public:
  CopiedCache(AttentionData& data, Backend& backend, Random& random) {
    const LayerCache& cache = data.cache;
    const int64_t heads = cache.keys.rows / cache.block_size;
    panels_ = HostBuffer(DType::kI32, heads * int4_key_panels(cache.block_size),
                         int4_key_panel_words(cache.keys.cols));
    data.cache.int4_keys = panels_.view();
    // Every slot is written, as a batch of its own.
    Batch all;
    for (int32_t slot = 0; slot < heads / cache.kv_heads * cache.block_size; ++slot) {
      all.slots.push_back(slot);
      all.positions.push_back(slot);
      all.tokens.push_back(0);
    }
    all.tile_start = {0, static_cast<int32_t>(all.slots.size())};
    const int64_t width = cache.kv_heads * cache.keys.cols;
    const auto rows = static_cast<int64_t>(all.slots.size());
    const HostBuffer keys = normal_matrix(DType::kF32, rows, width, random, 1.0f);
    const HostBuffer values = normal_matrix(DType::kF32, rows, width, random, 1.0f);
    backend.write_kv(keys.view(), values.view(), HostStepInput(all), data.cache);
  }

  std::vector<int32_t> words() const {
    const Tensor all = panels_.view();
    return {all.row<int32_t>(0), all.row<int32_t>(0) + all.rows * all.cols};
  }

 private:
  HostBuffer panels_{};
};

AttentionCase case_of(double mass, bool all_heads) {
  SelectionSettings rule;
  rule.query_tile = 8;
  rule.min_keys = 4;
  rule.ratio = 0.2;
  rule.mass = mass;
  rule.all_heads = all_heads;
  rule.int4_keys = true;
  return {.kv_heads = 2,
          .group = 3,
          .dim = 64,
          .block_size = 16,
          .rule = rule,
          .sequences = {{.first = 96, .count = 11}, {.first = 70, .count = 3, .per_query = true}}};
}

TEST(Int4KeysOfBackends, WriteTheSameCopy) {
  for (const int32_t block_size : {16, 32, 48}) {
    AttentionCase shape = case_of(0, false);
    shape.block_size = block_size;
    const auto words_of = [&](Backend& backend) {
      AttentionData data(shape, DType::kBF16);
      Random random(4);
      return CopiedCache(data, backend, random).words();
    };
    const auto reference = make_reference_backend(WeightFormat::kF32, DType::kBF16);
    const auto cpu = cpu::make_cpu_backend({.cache = DType::kBF16});
    EXPECT_EQ(words_of(*cpu), words_of(*reference)) << block_size;
  }
}

// Random scores are so far apart that rounding does not change their order.
TEST(Int4KeysOfBackends, SelectTheSameKeys) {
  for (const double mass : {0.0, 0.7}) {
    for (const bool all_heads : {false, true}) {
      const AttentionCase shape = case_of(mass, all_heads);
      const auto keys_of = [&](Backend& backend) {
        AttentionData data(shape, DType::kBF16);
        Random random(5);
        const CopiedCache copy(data, backend, random);
        const auto selection = backend.make_selection();
        backend.select_keys(data.q, data.cache, data.step(), data.tiles(),
                            to_select_options(shape.rule), *selection);
        return all_keys(*selection);
      };
      const auto reference = make_reference_backend(WeightFormat::kF32, DType::kBF16);
      const auto cpu = cpu::make_cpu_backend({.cache = DType::kBF16});
      EXPECT_EQ(keys_of(*cpu), keys_of(*reference)) << mass << ", " << all_heads;
    }
  }
}

// Threads share the rows of few sequences, with the same result.
TEST(Int4KeysOfBackends, SelectTheSameKeysWithManyThreads) {
  AttentionCase shape = case_of(0.7, false);
  shape.sequences = {{.first = 2 * cpu::kInt4KeySplit + 9, .count = 1, .per_query = true},
                     {.first = 300, .count = 1, .per_query = true},
                     {.first = 3, .count = 1, .per_query = true}};
  const auto keys_of = [&](int32_t threads) {
    const auto cpu = cpu::make_cpu_backend({.cache = DType::kBF16, .threads = threads});
    AttentionData data(shape, DType::kBF16);
    Random random(7);
    const CopiedCache copy(data, *cpu, random);
    const auto selection = cpu->make_selection();
    cpu->select_keys(data.q, data.cache, data.step(), data.tiles(), to_select_options(shape.rule),
                     *selection);
    return all_keys(*selection);
  };
  EXPECT_EQ(keys_of(5), keys_of(1));
}

// The keys of the cache must not be read to select.
TEST(Int4KeysOfBackends, SelectWithoutTheKeys) {
  const AttentionCase shape = case_of(0.7, false);
  const auto cpu = cpu::make_cpu_backend({.cache = DType::kBF16});
  const auto keys_of = [&](bool spoiled) {
    AttentionData data(shape, DType::kBF16);
    Random random(6);
    const CopiedCache copy(data, *cpu, random);
    if (spoiled) {
      for (int64_t row = 0; row < data.cache.keys.rows; ++row) {
        data.set(data.cache.keys, row, std::numeric_limits<float>::quiet_NaN());
      }
    }
    const auto selection = cpu->make_selection();
    cpu->select_keys(data.q, data.cache, data.step(), data.tiles(), to_select_options(shape.rule),
                     *selection);
    return all_keys(*selection);
  };
  EXPECT_EQ(keys_of(true), keys_of(false));
}

}  // namespace
}  // namespace kascade::testing
