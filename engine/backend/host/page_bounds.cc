#include "engine/backend/host/page_bounds.h"

#include <algorithm>
#include <limits>

#include "engine/backend/quantization.h"

namespace kascade {

void PageBounds::read(LayerCache cache, const int32_t* blocks, int32_t kv_head, int32_t page_size,
                      int32_t pages) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  dim_ = cache.keys.cols;
  pages_ = pages;
  const auto dim = static_cast<size_t>(dim_);
  key_.resize(dim);
  least_.resize(dim * static_cast<size_t>(pages));
  largest_.resize(least_.size());
  for (int32_t page = 0; page < pages; ++page) {
    low_.assign(dim, kInfinity);
    high_.assign(dim, -kInfinity);
    for (int32_t key = page * page_size; key < (page + 1) * page_size; ++key) {
      read_key(cache.keys,
               cache.row(blocks[key / cache.block_size], kv_head, key % cache.block_size));
      for (size_t d = 0; d < dim; ++d) {
        low_[d] = key_[d] < low_[d] ? key_[d] : low_[d];
        high_[d] = key_[d] > high_[d] ? key_[d] : high_[d];
      }
    }
    for (size_t d = 0; d < dim; ++d) {
      least_[d * pages_ + page] = low_[d];
      largest_[d * pages_ + page] = high_[d];
    }
  }
}

void PageBounds::read_key(Tensor keys, int64_t row) {
  if (keys.dtype == DType::kInt8) return read_int8_row(keys, row, key_.data());
  if (keys.dtype == DType::kBF16) {
    std::transform(keys.bf16(row), keys.bf16(row) + dim_, key_.begin(),
                   [](uint16_t value) { return from_bf16(value); });
  } else {
    std::copy_n(keys.f32(row), dim_, key_.begin());
  }
}

void PageBounds::raise_scores(const float* q, int32_t pages) {
  sums_.assign(static_cast<size_t>(pages), 0.0f);
  for (int64_t d = 0; d < dim_; ++d) {
    // The sign of q tells which of q · least and q · largest is the larger one.
    const float* bound = (q[d] < 0 ? least_ : largest_).data() + d * pages_;
    for (int32_t page = 0; page < pages; ++page) sums_[page] += q[d] * bound[page];
  }
  for (int32_t page = 0; page < pages; ++page) {
    scores_[page] = sums_[page] > scores_[page] ? sums_[page] : scores_[page];
  }
}

void PageBounds::choose(Tensor q, const Choice& keys, const ChoiceKernels& kernels, int32_t* out) {
  const int32_t end = keys.end / keys.unit;
  const Choice pages{keys.begin / keys.unit, end, keys.budget / keys.unit};
  scores_.assign(static_cast<size_t>(end), -std::numeric_limits<float>::infinity());
  for (int64_t row = 0; row < q.rows && !pages.takes_all(); ++row) {
    for (int64_t head = 0; head < q.cols; head += dim_) raise_scores(q.f32(row) + head, end);
  }
  // The page numbers are written to the end of the room for their keys. The loop below fills that
  // room from the front and never overwrites a page number before it has read it.
  int32_t* chosen = out + keys.budget - pages.budget;
  choose_keys(scores_.data(), pages, workspace_, chosen, kernels);
  for (int32_t i = 0; i < pages.budget; ++i) {
    const int32_t page = chosen[i];
    for (int32_t key = 0; key < keys.unit; ++key) *out++ = page * keys.unit + key;
  }
}

}  // namespace kascade
