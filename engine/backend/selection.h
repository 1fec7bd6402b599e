// The keys that the rows of a tile attend to, and the options by which a backend selects them.
#ifndef KASCADE_ENGINE_BACKEND_SELECTION_H_
#define KASCADE_ENGINE_BACKEND_SELECTION_H_

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
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_SELECTION_H_
