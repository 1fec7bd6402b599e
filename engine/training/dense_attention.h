// Dense causal attention over a whole text: what an adapter is trained to agree with.
#ifndef KASCADE_ENGINE_TRAINING_DENSE_ATTENTION_H_
#define KASCADE_ENGINE_TRAINING_DENSE_ATTENTION_H_

#include "engine/adapter/parameters.h"
#include "engine/training/adapter_attention.h"
#include "engine/training/rotation.h"
#include "engine/training/rows.h"

namespace kascade::training {

// Returns [tokens, heads · head_dim].
template <typename T>
Rows<T> dense_attention(const AdapterShape& shape, double scale, const AttentionRows<T>& in,
                        const Rotation<T>& rotation);

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_DENSE_ATTENTION_H_
