#include "engine/backend/select.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <functional>
#include <limits>
#include <numeric>

namespace kascade {
namespace {

// A first look at the ranks counts them by their highest bits: sign, exponent, start of the
// mantissa. Neighbours are counted apart, so that equal ones do not wait for each other.
constexpr int kBucketBits = 11, kShift = 32 - kBucketBits, kCounters = 4;
constexpr size_t kBuckets = size_t{1} << kBucketBits;

// Bits that order as the numbers do; −0 and 0 are equal. NaN, of which neither order nor thresholds
// are defined, ranks as −∞.
uint32_t rank_of(float score) {
  const float number = score >= -std::numeric_limits<float>::infinity()
                           ? score + 0.0f
                           : -std::numeric_limits<float>::infinity();
  const auto bits = std::bit_cast<uint32_t>(number);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

// One rank per unit.
void rank_units(const float* scores, const Choice& choice, std::vector<uint32_t>& ranks) {
  ranks.resize(static_cast<size_t>((choice.end - choice.begin) / choice.unit));
  if (choice.unit == 1) {
    std::transform(scores + choice.begin, scores + choice.end, ranks.begin(), rank_of);
    return;
  }
  const float* unit = scores + choice.begin;
  for (uint32_t& rank : ranks) {
    rank = 0;
    for (const float* end = unit + choice.unit; unit < end; ++unit) {
      rank = std::max(rank, rank_of(*unit));
    }
  }
}

void count_buckets(const std::vector<uint32_t>& ranks, std::vector<int32_t>& histogram) {
  histogram.assign(kBuckets * kCounters, 0);
  for (size_t i = 0; i < ranks.size(); ++i) {
    ++histogram[(ranks[i] >> kShift) * kCounters + i % kCounters];
  }
}

// The lowest rank of the best `wanted`, and how many units of just that rank are among them.
struct Threshold {
  uint32_t rank;
  int32_t ties;
};
Threshold find_threshold(int32_t wanted, ChoiceScratch& scratch) {
  count_buckets(scratch.ranks, scratch.histogram);
  const auto count_of = [&](size_t bucket) {
    const auto first = scratch.histogram.begin() + static_cast<ptrdiff_t>(bucket * kCounters);
    return std::accumulate(first, first + kCounters, 0);
  };
  size_t bucket = kBuckets - 1;
  for (int32_t count = count_of(bucket); count < wanted; count = count_of(bucket)) {
    wanted -= count;
    --bucket;
  }
  std::vector<uint32_t>& close = scratch.close;
  close.resize(scratch.ranks.size() + 1);
  size_t size = 0;
  for (const uint32_t rank : scratch.ranks) {
    close[size] = rank;  // kept if the next does not overwrite it
    size += rank >> kShift == bucket ? 1 : 0;
  }
  const auto begin = close.begin(), last = begin + (wanted - 1);
  std::nth_element(begin, last, begin + static_cast<ptrdiff_t>(size), std::greater<>());
  const auto above = std::count_if(begin, last, [&](uint32_t rank) { return rank > *last; });
  return {*last, wanted - static_cast<int32_t>(above)};
}

}  // namespace

void choose_keys(const float* scores, const Choice& choice, ChoiceScratch& scratch, int32_t* out) {
  if (choice.budget == 0) return;
  if (choice.takes_all()) {
    std::iota(out, out + choice.budget, choice.begin);
    return;
  }
  rank_units(scores, choice, scratch.ranks);
  Threshold threshold = find_threshold(choice.budget / choice.unit, scratch);
  const int32_t* end = out + choice.budget;
  for (size_t index = 0; out < end; ++index) {
    const uint32_t rank = scratch.ranks[index];
    // The rest of the budget goes to the first units that equal the threshold.
    const int32_t tie = rank == threshold.rank && threshold.ties > 0 ? 1 : 0;
    threshold.ties -= tie;
    const int32_t taken = rank > threshold.rank ? 1 : tie;
    // Written in any case, kept if taken: which unit is, no processor can predict.
    const auto first = choice.begin + static_cast<int32_t>(index) * choice.unit;
    for (int32_t i = 0; i < choice.unit; ++i) out[i] = first + i;
    out += taken * choice.unit;
  }
}

void reset_selection(const Batch& batch, TileRange tiles, int32_t kv_heads, Selection& selection) {
  const auto first = batch.budget.begin() + tiles.begin;
  const int32_t most_keys = tiles.count == 0 ? 0 : *std::max_element(first, first + tiles.count);
  selection.reset(tiles.count, kv_heads, most_keys);
}

}  // namespace kascade
