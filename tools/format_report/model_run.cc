#include "tools/format_report/model_run.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/model/checkpoint.h"
#include "engine/runtime/batch_builder.h"
#include "engine/scheduler/scheduler.h"

namespace kascade::format_report {
namespace {

constexpr int32_t kBlockSize = 16;  // tokens of a block of the KV cache

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRun>> ModelRun::open(const std::filesystem::path& folder,
                                                         const ModelConfig& config,
                                                         WeightFormat format,
                                                         int32_t window_tokens) {
  auto checkpoint = open_checkpoint(folder, config);
  if (!checkpoint.ok()) return checkpoint.status();
  auto backend = open_backend(
      {.name = "cpu", .weights = format, .checkpoint_dtype = checkpoint->dtype, .cpu = {}});
  if (!backend.ok()) return backend.status();
  if (absl::Status status = (*backend)->attach_thread(); !status.ok()) return status;
  const int32_t blocks = (window_tokens + kBlockSize - 1) / kBlockSize;
  std::unique_ptr<ModelRun> run(
      new ModelRun(config, *std::move(checkpoint), *std::move(backend), blocks));
  if (!run->cache_.allocated() || !run->logits_.allocated()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "weights ", std::string(name_of(format)),
        ": the operating system refused the memory for a window of ", window_tokens, " tokens"));
  }
  return run;
}

ModelRun::ModelRun(const ModelConfig& config, Checkpoint checkpoint,
                   std::unique_ptr<Backend> backend, int32_t blocks)
    : backend_(std::move(backend)),
      cache_({config.layers, config.kv_heads, config.head_dim, blocks, kBlockSize,
              backend_->precision().cache},
             *backend_),
      blocks_(blocks, kBlockSize),
      transformer_(config, std::move(checkpoint), *backend_, kChunkRows),
      policy_(make_dense_policy()),
      logits_(backend_->allocate(DType::kF32, kChunkRows, config.vocab)) {}

void ModelRun::start(std::span<const Token> window) {
  KASCADE_CHECK(window.size() >= 2);
  window_ = std::make_unique<Sequence>();
  window_->tokens.assign(window.begin(), window.end());
  window_->spec.prefill_end = window_->feed_end();
  window_->tables.emplace_back(blocks_);
  KASCADE_CHECK(window_->tables[0].grow(window_->feed_end()));
}

std::span<const float> ModelRun::next_logits(int32_t rows) {
  KASCADE_CHECK(window_ && rows >= 1 && rows <= kChunkRows && rows <= window_->remaining());
  const int32_t begin = window_->computed;
  const Slice slice{.begin = begin, .count = rows, .first_logit = begin};
  const PlannedSlice planned{&slice, window_.get(), policy_.get()};
  BuiltBatch built = build_batch({&planned, 1}, kBlockSize);
  const Step step{std::move(built.batch), {{policy_.get(), built.tiles[0], &state_}}, {}};
  const Tensor hidden = transformer_.forward(step, cache_);
  const Tensor out = logits_.first_rows(rows);
  transformer_.logits(hidden, out);
  host_logits_.resize(static_cast<size_t>(out.rows * out.cols));
  backend_->download(out, std::as_writable_bytes(std::span(host_logits_)));
  window_->computed += rows;
  return host_logits_;
}

double ModelRun::bits_per_weight() const {
  double weights = 0;
  for (const Matrix* matrix : transformer_.matrices()) {
    weights +=
        static_cast<double>(matrix->out_features()) * static_cast<double>(matrix->in_features());
  }
  return 8 * static_cast<double>(packed_bytes()) / weights;
}

}  // namespace kascade::format_report
