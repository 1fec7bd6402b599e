// Selecting keys by score: the part of select_keys() that all backends on the host share.
#ifndef KASCADE_ENGINE_BACKEND_HOST_SELECT_H_
#define KASCADE_ENGINE_BACKEND_HOST_SELECT_H_

#include <cstdint>
#include <vector>

#include "engine/backend/batch.h"
#include "engine/backend/host/choice_kernels.h"
#include "engine/backend/selection.h"
#include "engine/backend/tensor.h"

namespace kascade {

// A selection to make: `budget` of the keys [begin, end), in aligned runs of `unit` keys. Budget
// and end − begin are multiples of the unit. With `mass` the number of keys follows the scores, as
// SelectOptions says: at least `least` of them, at most `budget`; the unit is then 1.
struct Choice {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t budget = 0;
  int32_t unit = 1;
  double mass = 0;     // [0, 1]; 0 = exactly `budget` keys
  int32_t least = 0;   // with `mass`; at most `budget`
  int32_t causal = 0;  // with `mass`: number of all keys that have a score, at least `end`

  bool follows_scores() const { return mass > 0 && least < budget; }
  bool takes_all() const { return !follows_scores() && budget == end - begin; }
};

// The choice for tile `tile` of a batch.
Choice choice_of(const Batch& batch, int32_t tile, const SelectOptions& options);

// Memory that choose_keys() reuses from call to call.
struct ChoiceWorkspace {
  std::vector<uint32_t> ranks;   // [units]
  std::vector<uint32_t> sample;  // a sample of the ranks
  std::vector<uint32_t> close;   // the ranks near the threshold
  std::vector<uint32_t> other;   // with a mass: the ranks on one side of a pivot
  std::vector<int32_t> units;    // the selected units
};

// Writes the keys with the highest scores to `out`, which has room for `budget` of them, in
// ascending order, and returns how many these are. Of equal scores the one with the lower index
// wins; a unit ranks by its largest score; NaN ranks lowest. `scores` is indexed by key and not
// read if the choice takes all keys. All sets of kernels give the same result.
int32_t choose_keys(const float* scores, const Choice& choice, ChoiceWorkspace& workspace,
                    int32_t* out, const ChoiceKernels& kernels = kPlainChoice);

// Whether a pooling takes the maximum of probabilities rather than their sum.
constexpr bool takes_largest(Pooling pooling) {
  return pooling == Pooling::kMax || pooling == Pooling::kLastRowMax;
}

// Pools scores [kv_heads, keys] over the KV heads, by sum or maximum as `pooling` does. Row 0
// receives the result.
void pool_heads(Tensor scores, Pooling pooling);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_HOST_SELECT_H_
