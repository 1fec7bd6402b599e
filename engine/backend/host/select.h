// Choosing keys by score: the part of select_keys() that all backends on the host share.
#ifndef KASCADE_ENGINE_BACKEND_HOST_SELECT_H_
#define KASCADE_ENGINE_BACKEND_HOST_SELECT_H_

#include <cstdint>
#include <vector>

#include "engine/backend/host/choice_kernels.h"
#include "engine/backend/selection.h"
#include "engine/backend/tensor.h"

namespace kascade {

// What to choose from: keys [begin, end), `budget` of them, in aligned runs of `unit`. Budget and
// end − begin are multiples of the unit.
struct Choice {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t budget = 0;
  int32_t unit = 1;

  bool takes_all() const { return budget == end - begin; }
};

// Memory that choose_keys() reuses from call to call.
struct ChoiceWorkspace {
  std::vector<uint32_t> ranks;   // of each unit
  std::vector<uint32_t> sample;  // some of them
  std::vector<uint32_t> close;   // those near the threshold
  std::vector<int32_t> units;    // chosen
};

// Writes the `budget` best-scored keys to `out`, ascending; equal scores → lower index. A unit
// ranks by its largest score, NaN ranks lowest. `scores` is indexed by key and unused if all are
// taken. The kernels make no difference to the outcome.
void choose_keys(const float* scores, const Choice& choice, ChoiceWorkspace& scratch, int32_t* out,
                 const ChoiceKernels& kernels = kPlainChoice);

// Whether a pooling takes the largest of the scores that it brings together, or their sum.
constexpr bool takes_largest(Pooling pooling) {
  return pooling == Pooling::kMax || pooling == Pooling::kLastRowMax;
}

// scores [kv_heads, keys]: row 0 becomes what all rows are together, by the pooling's own
// operation.
void pool_heads(Tensor scores, Pooling pooling);

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_HOST_SELECT_H_
