// A backend that forwards to another and adds up the time of each kind of operation, so that the
// product itself needs no clocks.
#ifndef KASCADE_TESTS_BENCH_TIMED_BACKEND_H_
#define KASCADE_TESTS_BENCH_TIMED_BACKEND_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "engine/backend/backend.h"
#include "tests/bench/processor_time.h"

namespace kascade::bench {

enum class Stage {
  kMatmul,     // of the layers
  kScoring,    // select_keys() whole; what choosing takes of it is measured apart
  kSelection,  // choosing keys by their scores
  kAttention,
  kRows,  // norm, rope, SiLU, embedding, rotary angles, writing keys and values
  kHead,
  kSampling,
  kOther,  // scheduling, batches, downloads: the rest of the step
};
inline constexpr size_t kStages = 8;
inline constexpr std::string_view kStageNames[kStages] = {
    "matmul",      "scoring", "selection", "attention",
    "norm, rope…", "head",    "sampling",  "scheduling, other"};

using StageSeconds = std::array<double, kStages>;
inline double& at(StageSeconds& seconds, Stage stage) {
  return seconds[static_cast<size_t>(stage)];
}

// One run of what is measured.
struct StepTime {
  double seconds = 0;
  StageSeconds stages{};
};

class TimedBackend final : public Backend {
 public:
  TimedBackend(std::unique_ptr<Backend> timed, Clock clock)
      : timed_(std::move(timed)), clock_(clock) {}

  Clock clock() const { return clock_; }

  // Since the last call.
  StageSeconds take_seconds() { return std::exchange(seconds_, StageSeconds{}); }
  // Whose products are booked as the head's.
  void mark_head(const Matrix* matrix) { head_.insert(matrix); }

  BackendInfo info() const override { return timed_->info(); }
  Precision precision() const override { return timed_->precision(); }
  absl::Status attach_thread() override { return timed_->attach_thread(); }

  Buffer allocate(DType dtype, int64_t rows, int64_t cols) override {
    return timed_->allocate(dtype, rows, cols);
  }
  void upload(std::span<const std::byte> host, Tensor to) override { timed_->upload(host, to); }
  void download(Tensor from, std::span<std::byte> host) override { timed_->download(from, host); }
  void copy(Tensor from, Tensor to) override { timed_->copy(from, to); }
  void gather_rows(Tensor from, std::span<const int32_t> rows, Tensor to) override;

  std::unique_ptr<Matrix> pack(std::span<const Tensor> parts, MatrixUse use) override {
    return timed_->pack(parts, use);
  }
  std::unique_ptr<EmbeddingTable> adopt_embedding(Tensor table) override {
    return timed_->adopt_embedding(table);
  }
  std::unique_ptr<StepInput> prepare(const Batch& batch) override { return timed_->prepare(batch); }
  std::unique_ptr<Selection> make_selection() override { return timed_->make_selection(); }
  std::unique_ptr<LogitStatistics> make_logit_statistics() override {
    return timed_->make_logit_statistics();
  }

  void embed(const EmbeddingTable& table, const StepInput& step, Tensor out) override;
  void rotary_angles(const StepInput& step, std::span<const double> frequencies,
                     Tensor out) override;
  void matmul(Tensor x, const Matrix& w, Tensor out, Into into) override;
  void rms_norm(Tensor x, Tensor weight, float eps, Tensor out) override;
  void rms_norm_heads(Tensor x, Tensor weight, float eps) override;
  void add_bias(Tensor x, Tensor bias) override;
  void scale(Tensor x, float factor) override;
  void rope(Tensor x, int32_t heads, Tensor angles) override;
  void write_kv(Tensor keys, Tensor values, const StepInput& step, LayerCache cache) override;
  void silu_mul(Tensor gate_up, Tensor out) override;
  void attend(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
              const KeySet& keys, Tensor out) override;
  void pool_scores(Tensor q, LayerCache cache, const StepInput& step, int32_t tile, Pooling pooling,
                   Tensor scores) override;
  void select_keys(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                   const SelectOptions& options, Selection& selection) override;
  void select_pages(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                    int32_t page_size, Selection& selection) override;
  void select_none(LayerCache cache, const StepInput& step, TileRange tiles,
                   Selection& selection) override;

 private:
  std::unique_ptr<Backend> timed_;
  Clock clock_;
  StageSeconds seconds_{};
  std::unordered_set<const Matrix*> head_;
};

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_TIMED_BACKEND_H_
