// The compressors of an adapter: windows of keys or values become one key or value each
// (engine/adapter/options.h), with the gradients of their parameters and inputs.
#ifndef KASCADE_ENGINE_TRAINING_COMPRESSOR_H_
#define KASCADE_ENGINE_TRAINING_COMPRESSOR_H_

#include <cstdint>
#include <vector>

#include "engine/adapter/options.h"
#include "engine/adapter/parameters.h"
#include "engine/training/block_selection.h"
#include "engine/training/rows.h"

namespace kascade::training {

// Of one KV head.
template <typename T>
struct CompressedHead {
  Rows<T> out{};                   // [windows, head_dim]
  Rows<T> pooled{};                // [windows, head_dim] before the norm; empty without a norm
  std::vector<int32_t> largest{};  // kMax: [windows · head_dim] place of the largest in the window
  Rows<T> inputs{};                // kMlp: [windows, block · head_dim]
  Rows<T> units{};                 // kMlp: [windows, units] after the ReLU
};

// What compress() and its gradient need beside the numbers.
struct CompressorPlan {
  Compressor kind = Compressor::kMax;
  const CompressorTensors* tensors = nullptr;
  const AdapterOptions* options = nullptr;
  int32_t head_dim = 0;
};

// Compresses KV head `head` of `rows`, [tokens, kv_heads · head_dim]; `parameters` are those of the
// layer.
template <typename T>
CompressedHead<T> compress(const CompressorPlan& plan, const T* parameters, const Rows<T>& rows,
                           int32_t head, Products<T>& products);

// Adds to the gradients of the layer's parameters and of `rows` what follows from the gradient of
// `compressed.out`.
template <typename T>
void compress_backward(const CompressorPlan& plan, const T* parameters,
                       const CompressedHead<T>& compressed, const Rows<T>& out_gradient,
                       int32_t head, Products<T>& products, T* parameter_gradient,
                       Rows<T>& rows_gradient);

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_COMPRESSOR_H_
