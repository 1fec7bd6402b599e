// The forward pass of a model over the batch of one step. To understand the engine, start
// with transformer.cc.
#ifndef KASCADE_ENGINE_MODEL_TRANSFORMER_H_
#define KASCADE_ENGINE_MODEL_TRANSFORMER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/attention/key_counts.h"
#include "engine/attention/observer.h"
#include "engine/attention/policy.h"
#include "engine/backend/backend.h"
#include "engine/backend/batch.h"
#include "engine/backend/tensor.h"
#include "engine/cache/kv_cache.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/matrices.h"
#include "engine/model/packed_file.h"

namespace kascade {

// The weights of one layer, packed for a backend. Biases and head norms that the layer does not
// have are not allocated.
struct LayerWeights {
  Buffer attention_norm;                  // f32 [1, hidden]
  std::unique_ptr<Matrix> qkv;            // [(heads + 2 · kv_heads) · head_dim, hidden]
  Buffer qkv_bias;                        // f32 [1, (heads + 2 · kv_heads) · head_dim]
  Buffer q_norm;                          // f32 [1, head_dim]
  Buffer k_norm;                          // f32 [1, head_dim]
  std::unique_ptr<Matrix> attention_out;  // [hidden, heads · head_dim]
  Buffer attention_out_bias;              // f32 [1, hidden], times residual_multiplier
  Buffer ffn_norm;                        // f32 [1, hidden]
  std::unique_ptr<Matrix> gate_up;        // [2 · intermediate, hidden]
  std::unique_ptr<Matrix> down;           // [hidden, intermediate]
};

// Columns [first_token, first_token + matrix->out_features()) of the output head. The head is
// divided into tiles so that scoring never holds [rows, vocabulary] logits.
struct HeadTile {
  int32_t first_token = 0;
  std::unique_ptr<Matrix> matrix;
};

// The tiles of a batch that share an attention policy.
struct AttentionGroup {
  const AttentionPolicy* policy = nullptr;
  TileRange tiles{};
  PolicyState* state = nullptr;
};

// The tiles of a batch that belong to an observed sequence.
struct ObservedTiles {
  LayerObserver* observer = nullptr;
  TileRange tiles{};
  size_t group = 0;  // index in Step::groups of the group that the tiles belong to
};

struct Step {
  Batch batch{};
  std::vector<AttentionGroup> groups{};  // together they cover all tiles, in order
  std::vector<ObservedTiles> observed{};
};

class Transformer {
 public:
  // Packs the checkpoint's matrices for `backend`, which must outlive the transformer. The
  // checkpoint stays mapped for the embedding. `max_rows` is the most rows of a step. With
  // `packed`, the matrices come from this file instead of the checkpoint; it must hold those of
  // matrix_specs() (CHECKed).
  Transformer(const ModelConfig& config, Checkpoint checkpoint, Backend& backend, int32_t max_rows,
              std::optional<PackedFile> packed = std::nullopt);

  // Runs the step and writes its keys and values into the cache. Returns the final-norm hidden
  // states of batch.logit_rows, divided by the model's logits_divisor, f32 [logits, hidden], in the
  // backend's memory, valid until the next call.
  Tensor forward(const Step& step, const KvCache& cache);

  std::span<const HeadTile> head() const { return head_; }
  int64_t widest_head_tile() const;  // columns
  // out[r, t] = logit of token t for row r: f32 [rows, vocab].
  void logits(Tensor hidden, Tensor out);
  // The same for one tile of the head; out f32 [rows, tile].
  void tile_logits(Tensor hidden, const HeadTile& tile, Tensor out);

  // The packed matrices in the order of matrix_specs().
  std::vector<const Matrix*> matrices() const;

  const ModelConfig& config() const { return config_; }
  Backend& backend() const { return backend_; }
  // The layers of all steps so far, which grow during a step: a sign of life, since a step of a
  // large model can take minutes and a layer cannot. Thread-safe.
  int64_t layers_computed() const { return layers_computed_.load(std::memory_order_relaxed); }
  const AttentionTimes& attention_times() const { return attention_times_; }  // of all steps
  int64_t packed_bytes() const { return packed_bytes_; }
  // Of the mapped files, what steps read: the embedding, and the matrices if they come from a file.
  int64_t mapped_weight_bytes() const;
  int64_t mapped_bytes() const { return checkpoint_.files ? checkpoint_.files->mapped_bytes() : 0; }

 private:
  struct Workspace {
    Workspace(const ModelConfig& config, int32_t rows, Backend& backend);
    Buffer x;         // [rows, hidden] residual stream
    Buffer before;    // [rows, hidden] copy of x for observers
    Buffer normed;    // [rows, hidden]
    Buffer rotation;  // [rows, head_dim] cos | sin
    Buffer qkv;       // [rows, (heads + 2 · kv_heads) · head_dim]
    Buffer attended;  // [rows, heads · head_dim]
    Buffer gate_up;   // [rows, 2 · intermediate]
    Buffer gated;     // [rows, intermediate]
    Buffer hidden;    // [rows, hidden] final hidden states of batch.logit_rows
  };

  void layer(int32_t index, const Step& step, const StepInput& input, const KvCache& cache);
  void attention(int32_t index, const Step& step, const StepInput& input, const KvCache& cache);
  // Projects the normed rows to queries, keys and values, and rotates queries and keys.
  void project_qkv(const LayerWeights& weights, Tensor normed, Tensor qkv);
  // x *= factor; does nothing if the factor is 1, which it is in most models.
  void scale(Tensor x, double factor);
  // Applies the output projection of the attention block and adds the result to the residual
  // stream.
  void add_attention(int32_t index, const Step& step);
  LayerWeights packed_layer(const LayerTensors& tensors);
  // Returns the next matrix of matrix_specs(): from the packed file if there is one, else packed
  // from its parts.
  std::unique_ptr<Matrix> next_matrix(MatrixUse use);

  ModelConfig config_;
  Checkpoint checkpoint_;
  Backend& backend_;
  std::unique_ptr<EmbeddingTable> embedding_;
  std::optional<PackedFile> packed_file_;  // holds the matrices, if there is one
  std::vector<double> frequencies_;
  std::vector<LayerWeights> layers_;
  Buffer norm_;
  std::vector<HeadTile> head_;
  std::vector<std::vector<Tensor>> parts_;  // matrix_parts()
  size_t matrices_made_ = 0;
  int64_t packed_bytes_ = 0;
  Workspace workspace_;
  AttentionTimes attention_times_;
  std::atomic<int64_t> layers_computed_ = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_MODEL_TRANSFORMER_H_
