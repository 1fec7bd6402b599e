// Which keys the rows of a tile attend to, and how a backend chooses them.
#ifndef KASCADE_ENGINE_BACKEND_SELECTION_H_
#define KASCADE_ENGINE_BACKEND_SELECTION_H_

#include <cstdint>
#include <span>
#include <vector>

namespace kascade {

// The keys chosen for each (tile of a range, KV head), in the memory of the backend that made it
// (Backend::make_selection). Filled by Backend::select_*, used again from step to step.
class Selection {
 public:
  virtual ~Selection() = default;
  virtual int32_t tiles() const = 0;  // of the range that it was filled for; 0 before
  virtual int32_t kv_heads() const = 0;
  // Downloads the keys of one tile (counted from the range's first) and KV head: ascending absolute
  // positions, sinks excluded.
  virtual std::vector<int32_t> read(int32_t tile, int32_t kv_head) const = 0;
};

// Which keys a row attends to. Without a selection: all causal keys. With one: the sinks, the keys
// selected for head_map[g] (identity when empty), and [candidate_end, own position].
struct KeySet {
  const Selection* selection = nullptr;
  std::span<const int32_t> head_map{};  // [kv_heads]
};

// How the probabilities of a tile's rows become one score per key and KV head.
enum class Pooling {
  kSum,         // sum over all rows of the tile and the query heads of the group (kascade)
  kMax,         // largest over the same (kascade, an experiment)
  kLastRowMax,  // last row only, largest of the group's heads (tile family, selection)
  kLastRowSum,  // last row only, sum over the group's heads (tile family, similarity)
};

// How select_keys() turns scores into a choice. `unit` consecutive keys, aligned to `unit`, are
// chosen together by their largest score; 1 = single keys.
struct SelectOptions {
  Pooling pooling = Pooling::kSum;
  int32_t unit = 1;
  // One choice for all KV heads, by the sum of their scores, or the largest where heads are pooled
  // by the largest.
  bool all_heads = false;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_SELECTION_H_
