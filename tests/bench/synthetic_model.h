// A model of any shape with random weights, and contexts whose keys and values are random too: a
// step far into a long text can be measured without computing what comes before it.
#ifndef KASCADE_TESTS_BENCH_SYNTHETIC_MODEL_H_
#define KASCADE_TESTS_BENCH_SYNTHETIC_MODEL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/tensor.h"
#include "engine/cache/blocks.h"
#include "engine/cache/kv_cache.h"
#include "engine/model/config.h"
#include "engine/model/transformer.h"
#include "engine/scheduler/sequence.h"

namespace kascade::bench {

// bf16, normally distributed with this deviation (as initialised models have), from `seed`.
HostBuffer random_matrix(int64_t rows, int64_t cols, double deviation, uint64_t seed);
// Weights of about the same size: in bf16, or with `dtype` in random blocks of it.
HostBuffer random_weights(std::optional<DType> dtype, int64_t rows, int64_t cols, uint64_t seed);

class SyntheticModel {
 public:
  // Matrices are packed for `backend`, which must outlive the model. All layers have the same
  // values, each in a packed copy of its own, so that memory is read as by a real model. With
  // `blocks`, matrices consist of blocks of this dtype.
  SyntheticModel(const ModelConfig& config, Backend& backend, int32_t max_rows,
                 std::optional<DType> blocks = {});

  Transformer& transformer() { return *transformer_; }
  const ModelConfig& config() const { return transformer_->config(); }

 private:
  Checkpoint make_checkpoint(const ModelConfig& config);
  Tensor matrix(int64_t rows, int64_t cols);
  Tensor norm(int64_t cols);

  std::optional<DType> blocks_;
  std::vector<HostBuffer> buffers_;  // what the checkpoint's tensors point into
  std::unique_ptr<Transformer> transformer_;
};

// Sequences whose first tokens have been computed, as far as the cache can tell.
class SyntheticContexts {
 public:
  // In the memory of `backend`, which must be one on the host and outlive them.
  // RESOURCE_EXHAUSTED when the memory for `sequences` of `tokens` tokens cannot be had.
  static absl::StatusOr<std::unique_ptr<SyntheticContexts>> make(const ModelConfig& config,
                                                                 Backend& backend,
                                                                 int32_t sequences, int32_t tokens);

  KvCache& cache() { return cache_; }
  const std::vector<Sequence>& sequences() const { return sequences_; }
  // Rows from `position` on select per query.
  void set_prefill_end(int32_t sequence, int32_t position) {
    sequences_[sequence].spec.prefill_end = position;
  }

 private:
  SyntheticContexts(const KvCacheShape& shape, Backend& backend);
  void fill(double deviation);

  KvCache cache_;
  BlockAllocator blocks_;
  std::vector<Sequence> sequences_;  // hold blocks; die before the allocator
};

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_SYNTHETIC_MODEL_H_
