#include "tests/bench/synthetic_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/thread_pool.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/int4_keys.h"
#include "engine/backend/quantization.h"
#include "engine/base/check.h"
#include "tests/support/random_blocks.h"

namespace kascade::bench {
namespace {

constexpr double kWeightDeviation = 0.02;
constexpr int32_t kBlockSize = 32;
constexpr int64_t kTableRows = 4096;  // distinct keys that contexts are filled from

cpu::ThreadPool& all_cores() {
  static cpu::ThreadPool pool(std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  return pool;
}

// splitmix64.
uint64_t random_bits(uint64_t& state) {
  uint64_t bits = state += 0x9e3779b97f4a7c15u;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return bits ^ (bits >> 31);
}

// The sum of four uniform numbers is near enough to the normal distribution and costs little.
float random_normal(uint64_t& state) {
  constexpr float kScale = 1.7320508F / 65536;  // the sum has variance 4/12 · 65536²
  const uint64_t bits = random_bits(state);
  const auto sum = static_cast<float>((bits & 0xffff) + ((bits >> 16) & 0xffff) +
                                      ((bits >> 32) & 0xffff) + (bits >> 48));
  return (sum - 2 * 65536) * kScale;
}

HostBuffer as_type(const HostBuffer& bf16, DType dtype) {
  KASCADE_CHECK(dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kInt8);
  HostBuffer out(dtype, bf16.view().rows, bf16.view().cols);
  std::vector<float> values(static_cast<size_t>(bf16.view().cols));
  for (int64_t row = 0; row < bf16.view().rows; ++row) {
    const uint16_t* from = bf16.view().bf16(row);
    std::transform(from, from + values.size(), values.begin(), from_bf16);
    if (dtype == DType::kF32) std::copy(values.begin(), values.end(), out.view().f32(row));
    if (dtype == DType::kBF16) std::copy_n(from, values.size(), out.view().bf16(row));
    if (dtype == DType::kInt8) write_int8_row(values.data(), out.view(), row);
  }
  return out;
}

// Panels of the 4-bit copies of random keys.
HostBuffer random_panels(int64_t head_dim, double deviation) {
  HostBuffer panels(DType::kI32, kTableRows / kInt4KeyPanel, int4_key_panel_words(head_dim));
  const HostBuffer keys =
      as_type(random_matrix(kTableRows, head_dim, deviation, /*seed=*/2), DType::kF32);
  all_cores().run(panels.view().rows, [&](int64_t panel, int32_t) {
    for (int32_t slot = 0; slot < kInt4KeyPanel; ++slot) {
      write_int4_key(keys.view().f32(panel * kInt4KeyPanel + slot), head_dim, slot,
                     panels.view().row<int32_t>(panel));
    }
  });
  return panels;
}

// Runs of rows of the table, from ever other places.
void fill_rows(Tensor out, Tensor table, uint64_t& state) {
  const int64_t row_bytes = out.stride * size_of(out.dtype);
  for (int64_t row = 0; row < out.rows;) {
    const auto from = static_cast<int64_t>(random_bits(state) % static_cast<uint64_t>(table.rows));
    const int64_t count = std::min(table.rows - from, out.rows - row);
    std::memcpy(out.slice_rows(row, count).data, table.slice_rows(from, count).data,
                static_cast<size_t>(count * row_bytes));
    row += count;
  }
}

}  // namespace

HostBuffer random_matrix(int64_t rows, int64_t cols, double deviation, uint64_t seed) {
  HostBuffer matrix(DType::kBF16, rows, cols);
  KASCADE_CHECK(matrix.view().data != nullptr);
  all_cores().run(rows, [&](int64_t row, int32_t) {
    uint64_t state = seed ^ (static_cast<uint64_t>(row) << 24);
    for (int64_t i = 0; i < cols; ++i) {
      matrix.view().bf16(row)[i] = to_bf16(static_cast<float>(deviation) * random_normal(state));
    }
  });
  return matrix;
}

HostBuffer random_weights(std::optional<DType> dtype, int64_t rows, int64_t cols, uint64_t seed) {
  if (!dtype) return random_matrix(rows, cols, kWeightDeviation, seed);
  std::mt19937 random(static_cast<uint32_t>(seed));
  return testing::random_blocks(*dtype, rows, cols, random,
                                static_cast<float>(kWeightDeviation / 8));
}

SyntheticModel::SyntheticModel(const ModelConfig& config, Backend& backend, int32_t max_rows,
                               std::optional<DType> blocks)
    : blocks_(blocks),
      transformer_(
          std::make_unique<Transformer>(config, make_checkpoint(config), backend, max_rows)) {}

Tensor SyntheticModel::matrix(int64_t rows, int64_t cols) {
  buffers_.push_back(random_weights(blocks_, rows, cols, buffers_.size()));
  return buffers_.back().view();
}

Tensor SyntheticModel::norm(int64_t cols) {
  buffers_.emplace_back(DType::kF32, 1, cols);
  std::fill_n(buffers_.back().view().f32(0), cols, 1.0F);
  return buffers_.back().view();
}

Checkpoint SyntheticModel::make_checkpoint(const ModelConfig& config) {
  const int64_t hidden = config.hidden;
  const LayerTensors layer{.attention_norm = norm(hidden),
                           .q = matrix(config.q_dim(), hidden),
                           .k = matrix(config.kv_dim(), hidden),
                           .v = matrix(config.kv_dim(), hidden),
                           .o = matrix(hidden, config.q_dim()),
                           .ffn_norm = norm(hidden),
                           .gate = matrix(config.intermediate, hidden),
                           .up = matrix(config.intermediate, hidden),
                           .down = matrix(hidden, config.intermediate)};
  Checkpoint checkpoint;
  checkpoint.embedding = matrix(config.vocab, hidden);
  checkpoint.head = checkpoint.embedding;
  checkpoint.layers.assign(config.layers, layer);
  checkpoint.norm = norm(hidden);
  checkpoint.dtype = blocks_.value_or(DType::kBF16);
  return checkpoint;
}

absl::StatusOr<std::unique_ptr<SyntheticContexts>> SyntheticContexts::make(
    const ModelConfig& config, Backend& backend, int32_t sequences, int32_t tokens) {
  const int32_t blocks = (tokens + kBlockSize - 1) / kBlockSize;
  const KvCacheShape shape{.layers = config.layers,
                           .kv_heads = config.kv_heads,
                           .head_dim = config.head_dim,
                           .blocks = blocks * sequences,
                           .block_size = kBlockSize,
                           .dtype = backend.precision().cache,
                           .int4_keys = true};
  auto contexts = std::unique_ptr<SyntheticContexts>(new SyntheticContexts(shape, backend));
  if (!contexts->cache_.allocated()) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for ", sequences, " contexts of ",
                                                     tokens, " tokens of ", shape.bytes_per_token(),
                                                     " bytes"));
  }
  contexts->fill(kWeightDeviation * std::sqrt(config.hidden));
  uint64_t state = 1;
  for (int32_t index = 0; index < sequences; ++index) {
    Sequence& sequence = contexts->sequences_.emplace_back();
    sequence.id = static_cast<SeqId>(index);
    for (int32_t token = 0; token < tokens; ++token) {
      const uint64_t bits = random_bits(state);
      sequence.tokens.push_back(static_cast<Token>(bits % static_cast<uint64_t>(config.vocab)));
    }
    sequence.tables.emplace_back(contexts->blocks_);
    KASCADE_CHECK(sequence.tables.back().grow(tokens));
  }
  return contexts;
}

SyntheticContexts::SyntheticContexts(const KvCacheShape& shape, Backend& backend)
    : cache_(shape, backend), blocks_(shape.blocks, shape.block_size) {}

// Keys and values deviate as products of normed states with the weights do.
void SyntheticContexts::fill(double deviation) {
  const KvCacheShape& shape = cache_.shape();
  const HostBuffer table =
      as_type(random_matrix(kTableRows, shape.head_dim, deviation, /*seed=*/1), shape.dtype);
  const HostBuffer panels = random_panels(shape.head_dim, deviation);
  all_cores().run(shape.layers, [&](int64_t layer, int32_t) {
    const LayerCache cache = cache_.layer(static_cast<int32_t>(layer));
    auto state = static_cast<uint64_t>(layer);
    fill_rows(cache.keys, table.view(), state);
    fill_rows(cache.values, table.view(), state);
    fill_rows(cache.int4_keys, panels.view(), state);
  });
}

}  // namespace kascade::bench
