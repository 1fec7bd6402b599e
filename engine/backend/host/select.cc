#include "engine/backend/host/select.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <numeric>

#include "engine/base/check.h"

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

// The score that rank_of() made this rank from, as a multiple of 2⁻⁴⁰.
uint64_t steps_of(uint32_t rank) {
  if (rank <= 0x80000000u) return 0;  // zero, negative, or NaN
  return score_in_steps(std::bit_cast<float>(rank ^ 0x80000000u));
}

uint64_t sum_plain(const uint32_t* ranks, int64_t count) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += steps_of(ranks[i]);
  return sum;
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

// The lowest rank among the best units, how many units of exactly this rank are among them, and how
// many units are the best.
struct Threshold {
  uint32_t rank = std::numeric_limits<uint32_t>::max();
  int64_t ties = 0;
  int64_t wanted = 0;
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
  const int64_t missing = wanted - split.above;
  const auto begin = workspace.close.begin(), last = begin + (missing - 1);
  std::nth_element(begin, last, begin + split.inside, std::greater<>());
  const auto above = std::count_if(begin, last, [&](uint32_t rank) { return rank > *last; });
  return {*last, missing - above, wanted};
}

// ---- Choices whose number of keys follows the scores ----

// The best ranks found so far, and when they are enough.
struct Prefix {
  int64_t least = 0;
  int64_t most = 0;
  uint64_t missing = 0;  // steps that the prefix must have
  int64_t keys = 0;
  uint64_t steps = 0;

  // Whether a longer prefix with so many keys and steps is enough. If one is, each longer one is.
  bool enough_with(int64_t more_keys, uint64_t more_steps) const {
    const int64_t all = keys + more_keys;
    return all >= most || (all >= least && steps + more_steps >= missing);
  }
  void add(int64_t more_keys, uint64_t more_steps) {
    keys += more_keys;
    steps += more_steps;
  }
};

// The middle of nine ranks, evenly spaced.
uint32_t pivot_of(const std::vector<uint32_t>& ranks, int64_t count) {
  constexpr size_t kSample = 9;
  uint32_t sample[kSample];
  for (size_t i = 0; i < kSample; ++i) {
    sample[i] = ranks[static_cast<size_t>(count) * (2 * i + 1) / (2 * kSample)];
  }
  std::nth_element(sample, sample + kSample / 2, sample + kSample);
  return sample[kSample / 2];
}

// The shortest prefix that is enough and of which the last rank is `rank`, of which `count` are
// left.
Threshold end_among_equals(Prefix prefix, uint32_t rank, int64_t count) {
  int64_t low = 1, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (prefix.enough_with(middle, static_cast<uint64_t>(middle) * steps_of(rank))) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return {rank, low, prefix.keys + low};
}

// The shortest prefix that is enough, by partitioning around pivots as in quickselect: the sums of
// one side say on which side the prefix ends. All ranks together must be enough.
Threshold find_threshold(Prefix prefix, const ChoiceKernels& kernels, ChoiceWorkspace& workspace) {
  if (prefix.enough_with(0, 0)) return {};
  constexpr uint32_t kHighest = std::numeric_limits<uint32_t>::max();
  std::vector<uint32_t>& left = workspace.close;
  std::vector<uint32_t>& side = workspace.other;
  left.resize(workspace.ranks.size() + ChoiceKernels::kBeyond);
  side.resize(left.size());
  auto count = static_cast<int64_t>(workspace.ranks.size());
  std::copy(workspace.ranks.begin(), workspace.ranks.end(), left.begin());
  while (true) {
    const uint32_t pivot = pivot_of(left, count);
    const int64_t higher =
        kernels.split(left.data(), count, pivot + 1, kHighest, side.data()).inside;
    const uint64_t steps = kernels.sum(side.data(), higher);
    if (higher > 0 && prefix.enough_with(higher, steps)) {
      left.swap(side);
      count = higher;
      continue;
    }
    prefix.add(higher, steps);
    const int64_t lower =
        pivot == 0 ? 0 : kernels.split(left.data(), count, 0, pivot - 1, side.data()).inside;
    const int64_t equal = count - higher - lower;
    const uint64_t equal_steps = static_cast<uint64_t>(equal) * steps_of(pivot);
    if (prefix.enough_with(equal, equal_steps)) return end_among_equals(prefix, pivot, equal);
    prefix.add(equal, equal_steps);
    left.swap(side);
    count = lower;
  }
}

// Ranks the candidates and says what the selected ones must add to the keys that are attended to in
// any case.
Prefix rank_and_sum(const float* scores, const Choice& choice, const ChoiceKernels& kernels,
                    std::vector<uint32_t>& ranks) {
  const auto sum_of = [&](int32_t begin, int32_t end) {
    ranks.resize(static_cast<size_t>(end - begin));
    kernels.rank(scores + begin, end - begin, ranks.data());
    return kernels.sum(ranks.data(), end - begin);
  };
  const uint64_t always = sum_of(0, choice.begin) + sum_of(choice.end, choice.causal);
  const uint64_t candidates = sum_of(choice.begin, choice.end);  // last, for `ranks`
  const uint64_t wanted = steps_to_cover(choice.mass, always + candidates);
  return {.least = choice.least,
          .most = choice.budget,
          .missing = wanted > always ? wanted - always : 0};
}

}  // namespace

const ChoiceKernels kPlainChoice = {rank_plain, split_plain, sum_plain, take_plain};

Choice choice_of(const Batch& batch, int32_t tile, const SelectOptions& options) {
  KASCADE_CHECK(options.mass == 0 || options.unit == 1);
  return {.begin = batch.candidate_begin[tile],
          .end = batch.candidate_end[tile],
          .budget = batch.budget[tile],
          .unit = options.unit,
          .mass = options.mass,
          .least = least_keys(options, batch.budget[tile]),
          .causal = batch.positions[batch.tile_start[tile + 1] - 1] + 1};
}

int32_t choose_keys(const float* scores, const Choice& choice, ChoiceWorkspace& workspace,
                    int32_t* out, const ChoiceKernels& kernels) {
  if (choice.budget == 0) return 0;
  if (choice.takes_all()) {
    std::iota(out, out + choice.budget, choice.begin);
    return choice.budget;
  }
  Threshold threshold;
  if (choice.follows_scores()) {
    const Prefix prefix = rank_and_sum(scores, choice, kernels, workspace.ranks);
    threshold = find_threshold(prefix, kernels, workspace);
  } else {
    rank_units(scores, choice, kernels, workspace.ranks);
    threshold = find_threshold(choice.budget / choice.unit, kernels, workspace);
  }
  workspace.units.resize(static_cast<size_t>(threshold.wanted));
  kernels.take(workspace.ranks.data(), static_cast<int64_t>(workspace.ranks.size()), threshold.rank,
               threshold.ties, threshold.wanted, workspace.units.data());
  for (const int32_t unit : workspace.units) {
    const int32_t first = choice.begin + unit * choice.unit;
    for (int32_t i = 0; i < choice.unit; ++i) *out++ = first + i;
  }
  return static_cast<int32_t>(threshold.wanted) * choice.unit;
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
