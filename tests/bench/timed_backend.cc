#include "tests/bench/timed_backend.h"

namespace kascade::bench {
namespace {

// Adds the time of its life to a stage.
class Timer {
 public:
  Timer(StageSeconds& seconds, Stage stage, Clock clock)
      : to_(at(seconds, stage)), clock_(clock), start_(seconds_now(clock)) {}
  ~Timer() { to_ += seconds_now(clock_) - start_; }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  double& to_;
  Clock clock_;
  double start_;
};

}  // namespace

std::unique_ptr<Matrix> TimedBackend::pack(std::span<const Tensor> parts, MatrixUse use) {
  return timed_->pack(parts, use);
}

void TimedBackend::matmul(Tensor x, const Matrix& w, Tensor out, Into into) {
  const Timer timer(seconds_, head_.contains(&w) ? Stage::kHead : Stage::kMatmul, clock_);
  timed_->matmul(x, w, out, into);
}

void TimedBackend::gather_rows(Tensor table, std::span<const int32_t> ids, Tensor out) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->gather_rows(table, ids, out);
}

void TimedBackend::rms_norm(Tensor x, Tensor weight, float eps, Tensor out) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->rms_norm(x, weight, eps, out);
}

void TimedBackend::rope(Tensor x, int32_t heads, Tensor rotation) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->rope(x, heads, rotation);
}

void TimedBackend::write_kv(Tensor keys, Tensor values, std::span<const int32_t> slots,
                            LayerCache cache) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->write_kv(keys, values, slots, cache);
}

void TimedBackend::silu_mul(Tensor gate_up, Tensor out) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->silu_mul(gate_up, out);
}

void TimedBackend::attend(Tensor q, LayerCache cache, const Batch& batch, TileRange tiles,
                          const KeySet& keys, Tensor out) {
  const Timer timer(seconds_, Stage::kAttention, clock_);
  timed_->attend(q, cache, batch, tiles, keys, out);
}

void TimedBackend::pool_scores(Tensor q, LayerCache cache, const Batch& batch, int32_t tile,
                               Pooling pooling, Tensor scores) {
  const Timer timer(seconds_, Stage::kScoring, clock_);
  timed_->pool_scores(q, cache, batch, tile, pooling, scores);
}

void TimedBackend::select_keys(Tensor q, LayerCache cache, const Batch& batch, TileRange tiles,
                               const SelectOptions& how, Selection& selection) {
  const Timer timer(seconds_, Stage::kScoring, clock_);
  timed_->select_keys(q, cache, batch, tiles, how, selection);
}

void TimedBackend::select_pages(Tensor q, LayerCache cache, const Batch& batch, TileRange tiles,
                                int32_t page_size, Selection& selection) {
  const Timer timer(seconds_, Stage::kScoring, clock_);
  timed_->select_pages(q, cache, batch, tiles, page_size, selection);
}

}  // namespace kascade::bench
