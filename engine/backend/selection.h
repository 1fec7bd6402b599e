// The keys that the rows of a tile attend to, and the options by which a backend selects them.
#ifndef KASCADE_ENGINE_BACKEND_SELECTION_H_
#define KASCADE_ENGINE_BACKEND_SELECTION_H_

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace kascade {

// The keys selected for each (tile of a range, KV head), in the memory of the backend that made the
// object (Backend::make_selection). Backend::select_*() fills it; one object is reused from step to
// step.
class Selection {
 public:
  virtual ~Selection() = default;
  virtual int32_t tiles() const = 0;  // tiles of the range that it was last filled for; 0 at first
  virtual int32_t kv_heads() const = 0;
  // Downloads the keys of one tile (counted from the first of the range) and KV head: absolute
  // positions in ascending order, without the sinks.
  virtual std::vector<int32_t> read(int32_t tile, int32_t kv_head) const = 0;
  // The number of these keys, without the keys themselves.
  virtual int32_t count(int32_t tile, int32_t kv_head) const = 0;
};

// The keys that a row attends to. Without a selection these are all causal keys. With one they are
// the sinks, the keys selected for KV head head_map[g] (g itself if the map is empty), and
// [candidate_end, own position].
struct KeySet {
  const Selection* selection = nullptr;
  std::span<const int32_t> head_map{};  // [kv_heads]
};

// How select_keys() and pool_scores() reduce the probabilities of a tile's rows to one score per
// key and KV head.
enum class Pooling {
  kSum,         // sum over the rows of the tile and the KV head's query heads (kascade)
  kMax,         // maximum over the same (kascade, experimental)
  kLastRowMax,  // maximum over the query heads in the last row (tile family, selection)
  kLastRowSum,  // sum over the query heads in the last row (tile family, similarity)
};

// How select_keys() selects by scores.
struct SelectOptions {
  Pooling pooling = Pooling::kSum;
  // Runs of `unit` consecutive keys, aligned to `unit`, are selected together by their largest
  // score; 1 selects single keys.
  int32_t unit = 1;
  // All KV heads share one selection. It ranks keys by the sum of their scores over the KV heads,
  // or by the maximum if `pooling` takes a maximum.
  bool all_heads = false;
  // Scores are computed from the 4-bit copy of the keys (int4_keys.h), which the cache must have
  // (CHECKed), in place of the keys.
  bool by_int4_keys = false;
  // 0: exactly `budget[tile]` keys are selected. Otherwise, in (0, 1], the number of keys follows
  // the scores, tile by tile and KV head by KV head, and `unit` must be 1. Let w(j) be
  // score_in_steps() of key j, in whole numbers. The selected keys are the shortest prefix of the
  // candidates, in order of descending score and then of ascending position, with
  //
  //   Σ w(always attended to) + Σ w(prefix)  ≥  steps_to_cover(mass, Σ w(all causal keys))
  //
  // but at least least_keys() and at most `budget[tile]`. The causal keys are those of the tile's
  // last row; sinks and the keys from candidate_end on are always attended to. The sums are exact,
  // so that neither their order nor the number of threads matters.
  double mass = 0;
  int32_t min_keys = 0;  // with `mass`: fewest keys to select, if there are as many; ≥ 0
};

// The fewest keys that a tile with this budget selects. If these are all candidates, nothing is
// scored. With a mass of 1 it is the whole budget, since only keys with a score of zero could be
// left out.
constexpr int32_t least_keys(const SelectOptions& options, int32_t budget) {
  const bool fixed = options.mass == 0 || options.mass >= 1;
  return fixed || options.min_keys > budget ? budget : options.min_keys;
}

// A score as a multiple of 2⁻⁴⁰, rounded down. NaN counts as 0, and a score above 2¹⁴ as 2¹⁴: no
// sum of probabilities is larger, since a tile has at most 128 rows. Sums of whole numbers do not
// depend on their order, and those of the scores of a tile stay below 2⁶⁴.
inline uint64_t score_in_steps(float score) {
  constexpr float kLargest = 0x1p14f, kStepsPerUnit = 0x1p40f;
  if (!(score > 0)) return 0;
  return static_cast<uint64_t>((score < kLargest ? score : kLargest) * kStepsPerUnit);
}

// The steps that are the share `mass` of `total`, rounded up; computed in f64.
inline uint64_t steps_to_cover(double mass, uint64_t total) {
  const auto wanted = static_cast<uint64_t>(std::ceil(mass * static_cast<double>(total)));
  return wanted < total ? wanted : total;
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_SELECTION_H_
