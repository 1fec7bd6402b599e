// Which keys a row of an adapter reads in each of its branches.
#ifndef KASCADE_ENGINE_TRAINING_BLOCK_SELECTION_H_
#define KASCADE_ENGINE_TRAINING_BLOCK_SELECTION_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <vector>

#include "engine/adapter/options.h"

namespace kascade::training {

// Windows that end within a text of `tokens` tokens: window w covers the tokens [w · stride,
// w · stride + block).
constexpr int64_t windows_of(const AdapterOptions& options, int64_t tokens) {
  if (tokens < options.compress_block) return 0;
  return (tokens - options.compress_block) / options.compress_stride + 1;
}

// Windows that the row at `position` sees.
constexpr int64_t visible_windows(const AdapterOptions& options, int64_t position) {
  return windows_of(options, options.sees_own_window ? position + 1 : position);
}

// The probability of each block up to the row's own: that of each window, times the strides that
// window and block have in common (Native Sparse Attention, equation 9).
template <typename T>
std::vector<T> block_importance(const AdapterOptions& options, int64_t position,
                                const std::vector<T>& window_probabilities) {
  std::vector<T> importance(position / options.selection_block + 1);
  for (size_t w = 0; w < window_probabilities.size(); ++w) {
    const int64_t begin = static_cast<int64_t>(w) * options.compress_stride;
    const int64_t end = begin + options.compress_block;
    for (int64_t at = begin; at < end; at += options.compress_stride) {
      importance[at / options.selection_block] += window_probabilities[w];
    }
  }
  return importance;
}

// The blocks that a row selects, ascending: the forced ones, then those of the greatest importance;
// of equal importance the one with the lower index. The last block of `importance` is the row's.
template <typename T>
std::vector<int32_t> select_blocks(const AdapterOptions& options,
                                   const std::vector<T>& importance) {
  const auto blocks = static_cast<int32_t>(importance.size());
  std::vector<int32_t> order(importance.size());
  std::iota(order.begin(), order.end(), 0);
  const auto forced = [&](int32_t block) {
    return block < options.first_blocks || block >= blocks - options.local_blocks;
  };
  const int32_t count = std::min(blocks, options.selected_blocks);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int32_t a, int32_t b) {
    if (forced(a) != forced(b)) return forced(a);
    if (importance[a] != importance[b]) return importance[a] > importance[b];
    return a < b;
  });
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

// The tokens of these blocks up to `position`.
inline void tokens_of_blocks(const AdapterOptions& options, const std::vector<int32_t>& blocks,
                             int64_t position, std::vector<int32_t>& tokens) {
  tokens.clear();
  for (const int32_t block : blocks) {
    const int64_t begin = int64_t{block} * options.selection_block;
    const int64_t end = std::min<int64_t>(begin + options.selection_block, position + 1);
    for (int64_t t = begin; t < end; ++t) tokens.push_back(static_cast<int32_t>(t));
  }
}

// The last `window` tokens up to `position`.
inline void tokens_of_window(const AdapterOptions& options, int64_t position,
                             std::vector<int32_t>& tokens) {
  const int64_t first = std::max<int64_t>(0, position + 1 - options.window);
  tokens.resize(static_cast<size_t>(position + 1 - first));
  std::iota(tokens.begin(), tokens.end(), static_cast<int32_t>(first));
}

// Keys, each with its value, that the row at `position` reads, in the order of Branch; memory slots
// are among the compressed ones. A key that two branches read counts in both.
constexpr std::array<int64_t, kBranches> keys_read(const AdapterOptions& options,
                                                   int64_t position) {
  const int64_t own_block = position / options.selection_block;
  // The row's own block is always selected, and read up to the row.
  const int64_t others = std::min<int64_t>(own_block, options.selected_blocks - 1);
  return {options.memory_slots + visible_windows(options, position),
          others * options.selection_block + position % options.selection_block + 1,
          std::min<int64_t>(options.window, position + 1)};
}

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_BLOCK_SELECTION_H_
