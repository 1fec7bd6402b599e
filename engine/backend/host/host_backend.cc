#include "engine/backend/host/host_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "engine/backend/host/host_buffer.h"
#include "engine/backend/host/host_logit_statistics.h"
#include "engine/base/check.h"

namespace kascade {
namespace {

int64_t row_bytes(Tensor tensor) {
  return row_elements(tensor.dtype, tensor.cols) * size_of(tensor.dtype);
}

}  // namespace

void HostSelection::reset(const Batch& batch, TileRange tiles, int32_t kv_heads) {
  const auto first = batch.budget.begin() + tiles.begin;
  tiles_ = tiles.count;
  kv_heads_ = kv_heads;
  capacity_ = tiles.count == 0 ? 0 : *std::max_element(first, first + tiles.count);
  const size_t choices = static_cast<size_t>(tiles.count) * kv_heads;
  indices_.resize(choices * capacity_);
  counts_.assign(choices, 0);
}

Buffer HostBackend::allocate(DType dtype, int64_t rows, int64_t cols) {
  auto memory = std::make_shared<HostBuffer>(dtype, rows, cols);
  const Tensor view = memory->view();
  return {view, std::move(memory)};
}

void HostBackend::upload(std::span<const std::byte> host, Tensor to) {
  const int64_t bytes = row_bytes(to);
  KASCADE_CHECK(static_cast<int64_t>(host.size()) == to.rows * bytes);
  for (int64_t row = 0; row < to.rows; ++row) {
    std::memcpy(to.slice_rows(row, 1).data, host.data() + row * bytes, static_cast<size_t>(bytes));
  }
}

void HostBackend::download(Tensor from, std::span<std::byte> host) {
  const int64_t bytes = row_bytes(from);
  KASCADE_CHECK(static_cast<int64_t>(host.size()) == from.rows * bytes);
  for (int64_t row = 0; row < from.rows; ++row) {
    std::memcpy(host.data() + row * bytes, from.slice_rows(row, 1).data,
                static_cast<size_t>(bytes));
  }
}

void HostBackend::copy(Tensor from, Tensor to) {
  for (int64_t row = 0; row < from.rows; ++row) {
    std::memcpy(to.f32(row), from.f32(row), from.cols * sizeof(float));
  }
}

void HostBackend::gather_rows(Tensor from, std::span<const int32_t> rows, Tensor to) {
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(to.f32(static_cast<int64_t>(i)), from.f32(rows[i]), from.cols * sizeof(float));
  }
}

std::unique_ptr<EmbeddingTable> HostBackend::adopt_embedding(Tensor table) {
  return std::make_unique<HostEmbedding>(table);
}

std::unique_ptr<StepInput> HostBackend::prepare(const Batch& batch) {
  return std::make_unique<HostStepInput>(batch);
}

std::unique_ptr<Selection> HostBackend::make_selection() {
  return std::make_unique<HostSelection>();
}

std::unique_ptr<LogitStatistics> HostBackend::make_logit_statistics() {
  return std::make_unique<HostLogitStatistics>();
}

void HostBackend::rotary_angles(const StepInput& step, std::span<const double> frequencies,
                                Tensor out) {
  const std::vector<int32_t>& positions = batch_of(step).positions;
  const size_t half = frequencies.size();
  for (size_t row = 0; row < positions.size(); ++row) {
    float* angles = out.f32(static_cast<int64_t>(row));
    for (size_t pair = 0; pair < half; ++pair) {
      const double angle = positions[row] * frequencies[pair];
      angles[pair] = static_cast<float>(std::cos(angle));
      angles[half + pair] = static_cast<float>(std::sin(angle));
    }
  }
}

void HostBackend::select_none(LayerCache cache, const StepInput& step, TileRange tiles,
                              Selection& selection) {
  host_selection(selection).reset(batch_of(step), tiles, cache.kv_heads);
}

}  // namespace kascade
