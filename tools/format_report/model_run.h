// One model in one weight format, and its logits over a window of tokens, chunk by chunk.
#ifndef KASCADE_TOOLS_FORMAT_REPORT_MODEL_RUN_H_
#define KASCADE_TOOLS_FORMAT_REPORT_MODEL_RUN_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "engine/backend/backend.h"
#include "engine/base/types.h"
#include "engine/cache/kv_cache.h"
#include "engine/model/config.h"
#include "engine/model/transformer.h"
#include "engine/scheduler/sequence.h"

namespace kascade::format_report {

// Most rows of one chunk: their logits over the whole vocabulary are in memory at once.
inline constexpr int32_t kChunkRows = 256;

class ModelRun {
 public:
  // Loads the checkpoint of `folder` into the cpu backend, with dense attention and the KV cache
  // that the format has by default (default_cache()), large enough for one window. Returns the
  // errors of open_checkpoint() and open_backend(); RESOURCE_EXHAUSTED if the memory for the cache
  // or the logits cannot be had.
  static absl::StatusOr<std::unique_ptr<ModelRun>> open(const std::filesystem::path& folder,
                                                        const ModelConfig& config,
                                                        WeightFormat format, int32_t window_tokens);

  // Starts a window of at most `window_tokens` tokens. Its rows are those of all tokens but the
  // last, which nothing is predicted after.
  void start(std::span<const Token> window);
  // Computes the next `rows` rows of the window, at most kChunkRows, and returns their logits, f32
  // [rows, vocab], valid until the next call.
  std::span<const float> next_logits(int32_t rows);

  Precision precision() const { return backend_->precision(); }
  BackendInfo info() const { return backend_->info(); }
  int64_t packed_bytes() const { return transformer_.packed_bytes(); }
  // Of the packed matrices, scales and minima included.
  double bits_per_weight() const;

 private:
  ModelRun(const ModelConfig& config, Checkpoint checkpoint, std::unique_ptr<Backend> backend,
           int32_t blocks);

  std::unique_ptr<Backend> backend_;
  KvCache cache_;
  BlockAllocator blocks_;
  Transformer transformer_;
  std::shared_ptr<const AttentionPolicy> policy_;
  PolicyState state_;
  Buffer logits_;                     // f32 [kChunkRows, vocab]
  std::vector<float> host_logits_;    // the same, downloaded
  std::unique_ptr<Sequence> window_;  // its blocks go back to blocks_, which outlives it
};

}  // namespace kascade::format_report

#endif  // KASCADE_TOOLS_FORMAT_REPORT_MODEL_RUN_H_
