#include "engine/backend/host/select.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <numeric>

namespace kascade {
namespace {

uint32_t rank_of(float score) {
  const float number = score >= -std::numeric_limits<float>::infinity()
                           ? score + 0.0f
                           : -std::numeric_limits<float>::infinity();
  const auto bits = std::bit_cast<uint32_t>(number);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

void rank_plain(const float* scores, int64_t count, uint32_t* ranks) {
  std::transform(scores, scores + count, ranks, rank_of);
}

ChoiceKernels::Split split_plain(const uint32_t* ranks, int64_t count, uint32_t low, uint32_t high,
                                 uint32_t* inside) {
  ChoiceKernels::Split split{};
  for (int64_t i = 0; i < count; ++i) {
    inside[split.inside] = ranks[i];  // stays unless the next one overwrites it
    split.inside += ranks[i] >= low && ranks[i] <= high ? 1 : 0;
    split.above += ranks[i] > high ? 1 : 0;
  }
  return split;
}

void take_plain(const uint32_t* ranks, int64_t /*count*/, uint32_t threshold, int64_t ties,
                int64_t wanted, int32_t* out) {
  const int32_t* end = out + wanted;
  for (int32_t index = 0; out < end; ++index) {
    const int tie = ranks[index] == threshold && ties > 0 ? 1 : 0;
    ties -= tie;
    *out = index;  // stays if taken; a branch here would often be mispredicted
    out += ranks[index] > threshold ? 1 : tie;
  }
}

// The rank of a unit is the largest rank of its keys.
void rank_units(const float* scores, const Choice& choice, const ChoiceKernels& kernels,
                std::vector<uint32_t>& ranks) {
  const auto keys = static_cast<size_t>(choice.end - choice.begin);
  ranks.resize(keys);
  kernels.rank(scores + choice.begin, static_cast<int64_t>(keys), ranks.data());
  if (choice.unit == 1) return;
  const auto unit = static_cast<size_t>(choice.unit);
  for (size_t i = 0; i < keys / unit; ++i) {
    const auto first = ranks.begin() + static_cast<ptrdiff_t>(i * unit);
    ranks[i] = *std::max_element(first, first + choice.unit);
  }
  ranks.resize(keys / unit);
}

struct Bounds {
  uint32_t low = 0;
  uint32_t high = std::numeric_limits<uint32_t>::max();
};

// Bounds between which a sample suggests the `wanted`-th highest rank to lie: within 3 standard
// deviations of its place in the sample.
Bounds expect_threshold(int64_t wanted, ChoiceWorkspace& workspace) {
  constexpr size_t kFewest = 1024, kStep = 32, kMost = 1024;
  const size_t count = workspace.ranks.size();
  if (count < kFewest) return {};
  const size_t step = std::max(kStep, count / kMost);
  workspace.sample.clear();
  for (size_t i = step / 2; i < count; i += step) workspace.sample.push_back(workspace.ranks[i]);
  const auto size = static_cast<double>(workspace.sample.size());
  const double share = static_cast<double>(wanted) / static_cast<double>(count);
  const double spread = 3 * std::sqrt(size * share * (1 - share)) + 1;
  const auto rank_at = [&](double place, uint32_t beyond) {
    if (place < 0 || place >= size) return beyond;
    const auto at = workspace.sample.begin() + static_cast<ptrdiff_t>(place);
    std::nth_element(workspace.sample.begin(), at, workspace.sample.end(), std::greater<>());
    return *at;
  };
  const Bounds all;
  return {.low = rank_at(size * share + spread, all.low),
          .high = rank_at(size * share - spread, all.high)};
}

// The lowest rank among the best `wanted` units, and how many units of exactly this rank are among
// them.
struct Threshold {
  uint32_t rank;
  int64_t ties;
};
Threshold find_threshold(int64_t wanted, const ChoiceKernels& kernels, ChoiceWorkspace& workspace) {
  const std::vector<uint32_t>& ranks = workspace.ranks;
  const auto count = static_cast<int64_t>(ranks.size());
  workspace.close.resize(ranks.size() + ChoiceKernels::kBeyond);
  const auto split_by = [&](const Bounds& bounds) {
    return kernels.split(ranks.data(), count, bounds.low, bounds.high, workspace.close.data());
  };
  ChoiceKernels::Split split = split_by(expect_threshold(wanted, workspace));
  if (wanted <= split.above || wanted > split.above + split.inside) split = split_by({});
  wanted -= split.above;
  const auto begin = workspace.close.begin(), last = begin + (wanted - 1);
  std::nth_element(begin, last, begin + split.inside, std::greater<>());
  const auto above = std::count_if(begin, last, [&](uint32_t rank) { return rank > *last; });
  return {*last, wanted - above};
}

}  // namespace

const ChoiceKernels kPlainChoice = {rank_plain, split_plain, take_plain};

void choose_keys(const float* scores, const Choice& choice, ChoiceWorkspace& workspace,
                 int32_t* out, const ChoiceKernels& kernels) {
  if (choice.budget == 0) return;
  if (choice.takes_all()) {
    std::iota(out, out + choice.budget, choice.begin);
    return;
  }
  rank_units(scores, choice, kernels, workspace.ranks);
  const int64_t wanted = choice.budget / choice.unit;
  const Threshold threshold = find_threshold(wanted, kernels, workspace);
  workspace.units.resize(static_cast<size_t>(wanted));
  kernels.take(workspace.ranks.data(), static_cast<int64_t>(workspace.ranks.size()), threshold.rank,
               threshold.ties, wanted, workspace.units.data());
  for (const int32_t unit : workspace.units) {
    const int32_t first = choice.begin + unit * choice.unit;
    for (int32_t i = 0; i < choice.unit; ++i) *out++ = first + i;
  }
}

void pool_heads(Tensor scores, Pooling pooling) {
  float* pooled = scores.f32(0);
  for (int64_t head = 1; head < scores.rows; ++head) {
    const float* other = scores.f32(head);
    for (int64_t key = 0; key < scores.cols; ++key) {
      pooled[key] =
          takes_largest(pooling) ? std::max(pooled[key], other[key]) : pooled[key] + other[key];
    }
  }
}

}  // namespace kascade
