// The parts of which the reference backend makes attention and selections.
#ifndef KASCADE_ENGINE_BACKEND_REFERENCE_ATTENTION_H_
#define KASCADE_ENGINE_BACKEND_REFERENCE_ATTENTION_H_

#include <cstdint>
#include <vector>

#include "engine/backend/batch.h"
#include "engine/backend/layer_cache.h"
#include "engine/backend/selection.h"

namespace kascade::reference {

// One query head at one position, with the tile of its row and the KV head that it reads.
struct Query {
  const float* q;
  int32_t tile;
  int32_t kv_head;
};

// q·kᵀ/√D of each of `keys`.
std::vector<float> logits(const Query& query, LayerCache cache, const Batch& batch,
                          const std::vector<int32_t>& keys);

// The same by the 4-bit copy of the keys.
std::vector<float> int4_logits(const Query& query, LayerCache cache, const Batch& batch,
                               const std::vector<int32_t>& keys);

// The probabilities that belong to logits. Without keys there are none, and the output of such a
// row is 0.
std::vector<float> softmax(std::vector<float> logits);

// [begin, end), or nothing if begin > end.
std::vector<int32_t> range(int32_t begin, int32_t end);

// The positions of the keys that a row of tile `tile` attends to for one KV head, ascending. `tile`
// counts from the first tile of the batch.
std::vector<int32_t> keys_of_row(const Batch& batch, TileRange tiles, int32_t tile,
                                 int32_t position, const KeySet& set, int32_t kv_head);

// Selects `budget` keys of [begin, end) in runs of `unit` keys, ranked by their largest score;
// returns them in ascending order.
std::vector<int32_t> best_keys(const float* scores, int32_t begin, int32_t end, int32_t budget,
                               int32_t unit);

// The number of keys to select for options.mass: of the keys [begin, end), in order of descending
// score, those that bring the scores of all attended keys to the share `mass` of those of all keys
// [0, causal).
int32_t keys_for_mass(const float* scores, int32_t begin, int32_t end, int32_t causal,
                      int32_t budget, const SelectOptions& options);

}  // namespace kascade::reference

#endif  // KASCADE_ENGINE_BACKEND_REFERENCE_ATTENTION_H_
