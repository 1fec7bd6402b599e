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

void TimedBackend::matmul(Tensor x, const Matrix& w, Tensor out, Into into) {
  const Timer timer(seconds_, head_.contains(&w) ? Stage::kHead : Stage::kMatmul, clock_);
  timed_->matmul(x, w, out, into);
}

void TimedBackend::gather_rows(Tensor from, std::span<const int32_t> rows, Tensor to) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->gather_rows(from, rows, to);
}

void TimedBackend::embed(const EmbeddingTable& table, const StepInput& step, Tensor out) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->embed(table, step, out);
}

void TimedBackend::rotary_angles(const StepInput& step, std::span<const double> frequencies,
                                 Tensor out) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->rotary_angles(step, frequencies, out);
}

void TimedBackend::rms_norm(Tensor x, Tensor weight, float eps, Tensor out) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->rms_norm(x, weight, eps, out);
}

void TimedBackend::rms_norm_heads(Tensor x, Tensor weight, float eps) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->rms_norm_heads(x, weight, eps);
}

void TimedBackend::add_bias(Tensor x, Tensor bias) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->add_bias(x, bias);
}

void TimedBackend::scale(Tensor x, float factor) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->scale(x, factor);
}

void TimedBackend::rope(Tensor x, int32_t heads, Tensor angles) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->rope(x, heads, angles);
}

void TimedBackend::write_kv(Tensor keys, Tensor values, const StepInput& step, LayerCache cache) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->write_kv(keys, values, step, cache);
}

void TimedBackend::silu_mul(Tensor gate_up, Tensor out) {
  const Timer timer(seconds_, Stage::kRows, clock_);
  timed_->silu_mul(gate_up, out);
}

void TimedBackend::attend(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                          const KeySet& keys, Tensor out) {
  const Timer timer(seconds_, Stage::kAttention, clock_);
  timed_->attend(q, cache, step, tiles, keys, out);
}

void TimedBackend::pool_scores(Tensor q, LayerCache cache, const StepInput& step, int32_t tile,
                               Pooling pooling, Tensor scores) {
  const Timer timer(seconds_, Stage::kScoring, clock_);
  timed_->pool_scores(q, cache, step, tile, pooling, scores);
}

void TimedBackend::select_keys(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                               const SelectOptions& options, Selection& selection) {
  const Timer timer(seconds_, Stage::kScoring, clock_);
  timed_->select_keys(q, cache, step, tiles, options, selection);
}

void TimedBackend::select_pages(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                                int32_t page_size, Selection& selection) {
  const Timer timer(seconds_, Stage::kScoring, clock_);
  timed_->select_pages(q, cache, step, tiles, page_size, selection);
}

void TimedBackend::select_none(LayerCache cache, const StepInput& step, TileRange tiles,
                               Selection& selection) {
  timed_->select_none(cache, step, tiles, selection);
}

}  // namespace kascade::bench
