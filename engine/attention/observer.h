// Watches the layers of sequences beside their attention policy: what calibration measures, and
// what a trace or a capture of activations would record. An observer changes no result.
#ifndef KASCADE_ENGINE_ATTENTION_OBSERVER_H_
#define KASCADE_ENGINE_ATTENTION_OBSERVER_H_

#include <cstdint>

#include "engine/attention/policy.h"
#include "engine/backend/backend.h"

namespace kascade {

// All calls come from the engine's thread, layer by layer, for the tiles of the observed sequence
// in the step. Tensors lie in the backend's memory: an observer downloads what it wants to see.
class LayerObserver {
 public:
  virtual ~LayerObserver() = default;
  // Rows per tile of the observed run; [1, 128].
  virtual int32_t query_tile() const { return 32; }

  // The layer's attention was computed: in.out holds it, before the output projection.
  virtual void attention_computed(Backend& backend, int32_t layer, const AttentionInput& in) = 0;
  // The residual stream before and after the attention block's output was added; f32
  // [batch rows, hidden]. Costs every step a copy of the residual stream.
  virtual void residual_added(Backend& backend, int32_t layer, const Batch& batch, TileRange tiles,
                              Tensor before, Tensor after) = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_ATTENTION_OBSERVER_H_
