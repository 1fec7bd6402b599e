// An observer is called after the attention of each layer of a sequence, to measure (calibration)
// or to record. It changes no result.
#ifndef KASCADE_ENGINE_ATTENTION_OBSERVER_H_
#define KASCADE_ENGINE_ATTENTION_OBSERVER_H_

#include <cstdint>

#include "engine/attention/policy.h"
#include "engine/backend/backend.h"

namespace kascade {

// All calls come from the engine's thread, layer by layer, with the tiles of the observed sequence
// in the step. Tensors lie in the backend's memory; an observer downloads what it needs.
class LayerObserver {
 public:
  virtual ~LayerObserver() = default;
  // The query tile of the observed sequence if it runs densely; [1, 128].
  virtual int32_t query_tile() const { return 32; }
  // Whether it measures the tile that begins at this position, which takes time in every layer.
  // Used to predict the durations of steps only.
  virtual bool measures(int32_t /*first_position*/) const { return true; }

  // Called when the layer's attention was computed: in.out holds it, before the output projection,
  // and `keys` is what the layer attended to.
  virtual void attention_computed(Backend& backend, int32_t layer, const AttentionInput& in,
                                  const AttendedKeys& keys) = 0;
  // Called with the residual stream before and after the output of the attention block was added;
  // f32 [batch rows, hidden]. Steps with an observer copy the residual stream for this.
  virtual void residual_added(Backend& backend, int32_t layer, const Batch& batch, TileRange tiles,
                              Tensor before, Tensor after) = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_OBSERVER_H_
