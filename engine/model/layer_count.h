// A sign of life of the forward pass. A step of a large model can take minutes, a layer cannot.
#ifndef KASCADE_ENGINE_MODEL_LAYER_COUNT_H_
#define KASCADE_ENGINE_MODEL_LAYER_COUNT_H_

#include <cstdint>

namespace kascade {

// Layers that all transformers of this process have computed. Grows during a step. Thread-safe.
int64_t layers_computed();

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_LAYER_COUNT_H_
